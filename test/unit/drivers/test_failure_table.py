"""What can go wrong with a driver, and the tests that show what becomes of it: each has to be there under its name."""

import ast
from functools import cache
from pathlib import Path

import pytest

TEST = Path(__file__).parents[2]

# Case -> the tests of it, as FILE::NAME below test/.
FAILURES = {
    "the constructor raises, or the callable returns no driver": [
        "unit/drivers/test_runner.py::test_a_driver_that_cannot_be_made_has_failed_for_good",
        "conformance/drivers/test_drivers.py::test_a_driver_that_cannot_start_says_why",
    ],
    "the class cannot be imported": ["unit/drivers/test_load.py::test_a_class_that_is_not_there_is_refused_by_name"],
    "`run` raises": [
        "unit/drivers/test_runner.py::test_a_driver_whose_run_raises_is_made_anew_after_a_pause",
        "unit/drivers/test_runner.py::test_a_driver_that_goes_on_failing_is_given_up_with_its_reason",
        "conformance/drivers/test_drivers.py::test_a_driver_whose_run_raises_is_listed_with_its_reason_and_made_anew",
    ],
    "its port is taken": [
        "integration/test_driver_ports.py::test_a_configured_port_that_is_taken_is_an_error_that_names_it_and_its_owner",
        "integration/test_driver_ports.py::test_a_driver_whose_port_is_taken_has_failed_and_says_so_without_a_traceback",
    ],
    "its port is not permitted": [
        "integration/test_driver_ports.py::test_a_port_that_is_not_permitted_is_an_error_that_names_it"
    ],
    "it ignores `stop`": [
        "unit/drivers/test_runner.py::test_a_driver_that_ignores_its_stop_is_given_up_and_can_do_nothing_any_more",
        "integration/test_driver_processes.py::test_a_driver_that_ignores_its_stop_is_ended_after_its_limit",
    ],
    "`stop` comes before `run`": [
        "unit/drivers/test_runner.py::test_a_driver_that_is_stopped_before_it_ran_is_never_run"
    ],
    "its process is killed while clients call": [
        "integration/test_driver_processes.py::test_a_killed_driver_comes_back_under_its_pid_and_nobody_else_notices",
        "integration/http/test_nats.py::test_the_client_of_a_killed_driver_hears_of_it_and_other_requests_go_on",
        "integration/http/test_nats.py::test_a_driver_that_is_killed_after_it_took_a_task_still_has_its_result_given",
        "integration/test_grpc_killed.py::test_clients_of_a_killed_driver_hear_of_it_and_others_go_on",
    ],
    "it is removed while clients call": [
        "integration/http/test_predict.py::test_stop_lets_running_requests_finish",
        "integration/http/test_tasks.py::test_stopping_a_driver_leaves_its_tasks_to_the_next_one",
        "acceptance/test_drivers.py::test_removing_an_added_driver_disturbs_neither_the_others_nor_messages_in_flight",
    ],
    "NATS is lost": [
        "integration/http/test_nats.py::"
        "test_while_nats_is_away_requests_are_refused_and_waiting_ones_end_at_their_deadline",
        "integration/test_presence.py::test_everybody_is_back_after_a_restart_of_the_server",
    ],
    "the workflow is not deployed, or no exit node is alive": [
        "integration/http/test_predict.py::test_ready_tells_what_is_missing",
        "integration/http/test_predict.py::"
        "test_while_no_node_is_alive_requests_wait_in_the_stream_until_their_deadline",
    ],
    "the stream is full": [
        "integration/http/test_nats.py::test_a_full_stream_is_unavailable_with_a_time_to_come_again",
        "integration/test_grpc_driver.py::test_a_full_stream_refuses_new_calls_at_once",
        "unit/drivers/test_source_sink.py::test_a_request_that_a_full_stream_refuses_is_sent_again_and_not_lost",
    ],
    "an answer is larger than NATS takes": [
        "integration/http/test_too_large.py::"
        "test_an_answer_that_is_too_large_fails_its_own_request_and_is_kept_as_a_dead_letter",
        "integration/http/test_too_large.py::test_a_task_whose_result_is_too_large_has_failed_for_that_reason",
    ],
    "a request is larger than NATS takes": [
        "integration/http/test_too_large.py::test_a_request_that_is_too_large_is_refused_and_nothing_is_sent",
        "integration/test_grpc_driver.py::test_a_request_larger_than_nats_takes_is_too_large",
    ],
    "a body is too large": ["integration/http/test_predict.py::test_a_body_of_100_mb_is_refused_without_being_kept"],
    "a body is no JSON, or has wrong fields": [
        "integration/http/test_predict.py::test_a_body_that_cannot_be_read_is_refused_and_nothing_is_sent",
        "integration/http/test_predict.py::test_every_wrong_field_is_told_and_nothing_is_sent",
        "integration/http/test_openapi.py::test_every_answer_is_one_that_the_document_promises",
    ],
    "parameters are invalid": [
        "unit/drivers/test_runner.py::test_wrong_parameters_are_refused_and_the_old_ones_stay",
        "unit/drivers/test_parameters.py::test_all_faults_are_told_at_once",
    ],
    "a client dribbles": [
        "integration/http/test_predict.py::test_a_client_that_dribbles_its_headers_is_let_go",
        "integration/http/test_predict.py::test_a_client_that_dribbles_its_body_is_let_go",
        "integration/http/test_attacks.py::test_a_client_that_dribbles_a_body_which_was_refused_is_let_go",
    ],
    "headers have no end": ["integration/http/test_attacks.py::test_what_has_no_end_is_not_kept"],
    "a token is wrong": ["integration/http/test_access.py::test_only_a_known_token_is_let_in_and_health_is_open"],
    "a task is unknown or has expired": [
        "integration/http/test_tasks.py::test_an_unknown_task_and_no_task_id_at_all_are_not_found",
        "integration/http/test_tasks.py::test_a_result_expires_when_its_time_is_over",
    ],
    "a sink is slow": [
        "unit/drivers/test_source_sink.py::test_nothing_more_is_read_while_as_many_are_in_flight_as_may_be",
        "unit/drivers/test_source_sink.py::test_an_overflow_drops_and_counts_what_the_rule_says",
    ],
    "a sink is down for a minute": [
        "unit/drivers/test_source_sink.py::test_a_sink_that_is_down_for_a_minute_loses_nothing"
    ],
    "a file is truncated while it is read": [
        "unit/drivers/test_resume.py::test_a_file_truncated_while_it_is_read_is_begun_anew"
    ],
}


@cache
def names_in(file: str) -> set[str]:
    tree = ast.parse((TEST / file).read_text())
    return {node.name for node in tree.body if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef))}


@pytest.mark.parametrize("case", FAILURES)
def test_every_failure_of_a_driver_has_its_tests(case: str) -> None:
    found = [test for test in FAILURES[case] if test.partition("::")[2] in names_in(test.partition("::")[0])]

    assert found == FAILURES[case] and found
