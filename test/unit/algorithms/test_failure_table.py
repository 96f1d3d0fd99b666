"""What can go wrong with algorithms, and the tests that show what becomes of it: each has to be there by its name."""

import ast
from functools import cache
from pathlib import Path

import pytest

TEST = Path(__file__).parents[2]

# Case -> the tests of it, as FILE::NAME below test/.
FAILURES = {
    "the adapter does not import": [
        "unit/algorithms/test_discover.py::test_an_adapter_that_does_not_import_is_refused_with_its_own_lines",
        "integration/algorithms/test_runners.py::test_every_fault_of_an_adapter_is_told_and_nothing_is_registered",
    ],
    "a signature cannot be served: no hint, *args, a generator, a hint without a form in JSON": [
        "unit/algorithms/test_discover.py::test_every_fault_is_told_at_once_with_function_and_argument",
        "integration/algorithms/test_runners.py::test_every_fault_of_an_adapter_is_told_and_nothing_is_registered",
    ],
    "the adapter imports functions named `run_…`": [
        "unit/algorithms/test_discover.py::test_an_imported_function_is_none_of_the_adapter_unless_it_is_listed",
    ],
    "`run`, `runner` and names with several prefixes": [
        "unit/algorithms/test_discover.py::test_the_name_is_what_follows_the_first_prefix",
    ],
    "lambdas, partials, classes and objects named `run_…`": [
        "unit/algorithms/test_discover.py::test_what_only_looks_like_an_algorithm_is_ignored_with_a_warning",
    ],
    "a return annotation": [
        "unit/algorithms/test_discover.py::test_a_return_hint_is_the_schema_of_the_result_and_no_field"
    ],
    "no algorithm at all": ["unit/algorithms/test_discover.py::test_an_adapter_without_an_algorithm_is_refused"],
    "arguments that pydantic cannot use as fields": [
        "unit/algorithms/test_discover.py::test_awkward_names_and_positional_arguments_reach_the_function"
    ],
    "variables are wrong": ["integration/algorithms/test_runners.py::test_wrong_variables_are_told_at_once"],
    "NATS is absent at the start": [
        "integration/algorithms/test_runners.py::test_a_runner_waits_for_nats_and_is_ready_when_it_comes"
    ],
    "NATS lets nobody in": ["integration/algorithms/test_faults.py::test_a_runner_that_nats_does_not_let_in_ends"],
    "NATS restarts": ["integration/algorithms/test_faults.py::test_a_server_that_restarts_finds_the_runner_again"],
    "a runner is killed in mid-call": [
        "integration/algorithms/test_runners.py::test_a_runner_killed_in_mid_call_costs_one_presence_expiry",
        "integration/algorithms/test_faults.py::test_replicas_killed_under_calls_answer_or_fail_every_one",
        "integration/test_dispatch.py::test_a_job_whose_runner_dies_with_it_is_done_by_another",
    ],
    "dispatchers and replicas are killed with work in hand": [
        "integration/test_dispatch.py::test_dispatchers_and_runners_killed_under_load_lose_no_job",
        "integration/test_dispatch.py::test_a_job_whose_dispatcher_dies_is_done_by_another",
    ],
    "a runner is stopped": [
        "integration/algorithms/test_runners.py::test_a_stopped_runner_disappears_at_once_and_finishes_its_calls",
        "integration/algorithms/test_runners.py::test_what_is_left_at_the_end_of_the_grace_time_is_unavailable",
    ],
    "a runner loses its connection": [
        "integration/algorithms/test_faults.py::test_a_runner_that_lost_its_connection_is_gone_and_returns_by_itself",
    ],
    "an algorithm blocks for ever in a thread": [
        "integration/algorithms/test_limits.py::test_a_blocked_thread_keeps_its_slot_and_is_told_as_overdue",
        "unit/algorithms/test_slots.py::test_an_overdue_call_is_answered_once_and_keeps_its_slot",
        "integration/algorithms/test_limits.py::test_ping_is_answered_while_every_slot_computes",
    ],
    "an algorithm blocks for ever in a process": [
        "integration/algorithms/test_limits.py::test_a_blocked_process_is_killed_and_its_slot_is_free"
    ],
    "an algorithm calls `sys.exit`": [
        "integration/algorithms/test_calls.py::test_results_and_failures_come_back_as_they_are"
    ],
    "a worker dies": [
        "integration/algorithms/test_calls.py::test_a_worker_that_dies_is_named_and_replaced",
        "integration/algorithms/test_faults.py::test_a_worker_that_a_signal_ends_is_named_and_replaced",
        "integration/algorithms/test_faults.py::test_a_worker_killed_from_outside_fails_its_own_call_alone",
    ],
    "a payload or a result is larger than a message": [
        "integration/algorithms/test_calls.py::test_bodies_larger_than_a_message_travel",
        "integration/algorithms/test_calls.py::test_bodies_above_the_cap_are_invalid",
    ],
    "a result is no JSON: NaN, a set, an object": [
        "integration/algorithms/test_calls.py::test_results_and_failures_come_back_as_they_are",
        "integration/http/test_algorithms.py::test_a_result_that_is_no_json_is_told_with_its_place",
    ],
    "a payload is no JSON, no object, or does not fit": [
        "unit/algorithms/test_discover.py::test_every_fault_of_a_payload_is_found_under_its_real_name",
        "integration/algorithms/test_calls.py::test_any_nats_client_can_call",
        "integration/http/test_algorithms.py::test_every_fault_of_a_payload_is_told",
    ],
    "every slot and waiting place is taken": [
        "unit/algorithms/test_slots.py::test_one_runs_two_wait_and_the_fourth_is_busy",
        "integration/http/test_algorithms.py::test_of_calls_beyond_the_waiting_places_each_is_told_to_come_again",
        "unit/node/test_dispatch.py::test_a_busy_algorithm_is_tried_four_times_before_its_message_waits",
    ],
    "a deadline passes": [
        "integration/algorithms/test_limits.py::test_a_deadline_before_the_timeout_counts",
        "integration/algorithms/test_limits.py::test_waiting_calls_whose_deadline_has_passed_make_room",
        "integration/http/test_algorithms.py::test_a_call_that_is_too_late_tells_its_limit",
    ],
    "two signatures for one name": [
        "integration/algorithms/test_runners.py::test_a_second_signature_is_refused_by_name",
        "integration/algorithms/test_runners.py::test_of_two_that_start_at_once_exactly_one_wins",
        "integration/http/test_algorithms.py::test_a_name_with_another_signature_is_refused",
    ],
    "a signature is replaced": [
        "integration/algorithms/test_runners.py::test_replace_makes_the_older_one_withdraw_that_algorithm_alone",
        "integration/algorithms/test_runners.py::test_a_runner_of_which_everything_is_replaced_ends",
    ],
    "the presence bucket is lost": [
        "integration/algorithms/test_runners.py::test_calls_go_on_when_the_presence_bucket_is_lost"
    ],
    "nobody serves it now, or ever did": [
        "integration/algorithms/test_calls.py::test_never_heard_of_differs_from_not_served_now",
        "unit/node/test_dispatch.py::test_a_message_waits_for_its_runner_and_uses_up_no_attempt",
        "unit/node/test_dispatch.py::test_a_message_without_a_runner_is_given_up_after_its_time",
        "integration/http/test_algorithms.py::test_an_algorithm_whose_runner_has_stopped_was_there_before",
        "integration/http/test_algorithms.py::test_an_unknown_name_tells_the_known_ones",
    ],
    "a message for a dispatcher is malformed": [
        "unit/node/test_dispatch.py::test_a_malformed_message_is_a_dead_letter_with_every_fault",
        "integration/test_dispatch.py::test_a_job_without_a_runner_is_given_up_and_others_are_done",
    ],
    "a call of a dispatcher fails": [
        "unit/node/test_dispatch.py::test_an_algorithm_that_raises_is_tried_again_by_the_policy",
        "unit/node/test_dispatch.py::test_what_a_retry_cannot_help_is_a_dead_letter_at_once",
    ],
    "an algorithm fails behind HTTP": [
        "integration/http/test_algorithms.py::test_a_failure_shows_its_traceback_unless_told_otherwise",
        "integration/http/test_algorithms.py::test_an_input_at_fault_is_told_by_the_algorithm",
    ],
    "a plain HTTP runner gives no answer, or registers what it may not": [
        "integration/http/test_algorithms.py::"
        "test_a_plain_http_runner_may_register_before_it_listens_and_is_forgotten_when_it_never_does",
        "integration/http/test_algorithms.py::test_only_addresses_that_a_pattern_names_are_registered",
        "integration/http/test_algorithms.py::test_nobody_registers_unless_addresses_are_allowed",
    ],
}


@cache
def names_in(file: str) -> set[str]:
    tree = ast.parse((TEST / file).read_text())
    return {node.name for node in tree.body if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef))}


@pytest.mark.parametrize("case", FAILURES)
def test_every_failure_of_an_algorithm_has_its_tests(case: str) -> None:
    found = [test for test in FAILURES[case] if test.partition("::")[2] in names_in(test.partition("::")[0])]

    assert found == FAILURES[case] and found
