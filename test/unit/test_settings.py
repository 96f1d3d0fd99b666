"""Every KRT_* variable: what is required, what is refused, and that all problems come in one report."""

from pathlib import Path

import pytest

from runtime.errors import SettingsError
from runtime.settings import (
    KNOWN,
    read_algorithms,
    read_driver,
    read_manager,
    read_model_host,
    read_node,
    read_writer,
    redact,
    unknown_variables,
)
from test.support.node import environment

FOLDER = Path("/krt-files")


def problems(environ: dict[str, str]) -> tuple[str, ...]:
    with pytest.raises(SettingsError) as raised:
        read_node(environ)
    return raised.value.problems


def test_all_that_is_missing_comes_in_one_sorted_report() -> None:
    found = problems({})

    assert len(found) == 13
    assert list(found) == sorted(found)
    assert found[0] == "the 'KRT_BASE_PATH' env var is missing (folder, e.g. /krt-files)"
    assert "the 'KRT_NATS_STREAM' env var is missing (text, e.g. prod_v1_greeter)" in found


def test_the_report_begins_with_the_number_of_problems() -> None:
    with pytest.raises(SettingsError) as raised:
        read_node(environment(FOLDER, REPLICA="-1", LOG_LEVEL="LOUD"))

    assert str(raised.value).splitlines() == [
        "error reading config: 2 problem(s)",
        "the 'KRT_LOG_LEVEL' env var is 'LOUD': expected DEBUG, INFO, WARN or ERROR",
        "the 'KRT_REPLICA' env var is '-1': expected a whole number, 0 or more",
    ]


def test_the_thirteen_base_variables_are_enough() -> None:
    settings = read_node(environment(FOLDER))

    assert (settings.workflow, settings.version_id, settings.version, settings.node) == (
        "greeter", "63a1f5", "v1", "work",
    )  # fmt: skip
    assert settings.inputs == ("prod_v1_greeter.entrypoint",)
    assert settings.handler_file == FOLDER / "handler.py"
    assert (settings.influx_token, settings.influx_org, settings.influx_bucket) == ("", "", "kre")
    assert settings.mongo_database == "data"
    assert (settings.max_ack_pending, settings.node_spec, settings.ready_fd) == (None, "", None)
    assert settings.nats.request_timeout_s == 5.0


def test_values_are_trimmed_and_an_empty_one_is_missing() -> None:
    assert read_node(environment(FOLDER, VERSION=" v2 \n")).version == "v2"
    assert problems(environment(FOLDER, VERSION="  ")) == ("the 'KRT_VERSION' env var is missing (text, e.g. v1)",)


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [
        ("IS_EXITPOINT", "yes", "true, false, 1 or 0"),
        ("IS_LAST_NODE", "last", "true, false, 1 or 0"),
        ("JS_REQUEST_TIMEOUT", "30s", "seconds, 0.1 to 300"),
        ("JS_REQUEST_TIMEOUT", "0", "seconds, 0.1 to 300"),
        ("JS_REQUEST_TIMEOUT", "nan", "seconds, 0.1 to 300"),
        ("JS_REQUEST_TIMEOUT", "301", "seconds, 0.1 to 300"),
        ("REPLICA", "1.5", "a whole number, 0 or more"),
        ("NATS_MAX_ACK_PENDING", "0", "a whole number, 1 or more, or -1 for no limit"),
        ("NATS_MAX_ACK_PENDING", "-2", "a whole number, 1 or more, or -1 for no limit"),
        ("MAX_PENDING_ACK", "many", "a whole number, 1 or more, or -1 for no limit"),
        ("MAX_INFLATED_BYTES", "12", "bytes, 1024 or more"),
        ("SHUTDOWN_GRACE", "-1", "seconds, 0 to 3600"),
        ("NATS_INPUTS", "a,,b", "a comma list without an empty item"),
        ("HANDLER_PATH", "../handler.py", "a file below KRT_BASE_PATH"),
        ("HANDLER_PATH", "a/../../handler.py", "a file below KRT_BASE_PATH"),
        ("HANDLER_PATH", "/handler.py", "a file below KRT_BASE_PATH"),
        ("MONGO_URI", "postgres://x", "mongodb://… or sqlite:///path"),
        ("INFLUX_URI", "localhost:8086", "http(s)://… or sqlite:///path"),
        ("LOG_FORMAT", "xml", "text or json"),
        ("WIRE", "v3", "v1 or v2"),
        ("NATS_SERVER", "http://x", "a list of host[:port] or nats://…, e.g. nats://localhost:4222"),
        ("NATS_SERVER", "a,,b", "a list of host[:port] or nats://…, e.g. nats://localhost:4222"),
        ("READY_FD", "pipe", "the number of an open pipe"),
    ],
)
def test_a_wrong_value_is_told_with_what_was_expected(name: str, value: str, expected: str) -> None:
    found = problems(environment(FOLDER, **{name: value}))

    assert found == (f"the 'KRT_{name}' env var is '{value}': expected {expected}",)


@pytest.mark.parametrize(("text", "value"), [("TRUE", True), ("1", True), ("False", False), ("0", False)])
def test_booleans_are_read_in_any_case(text: str, value: bool) -> None:
    assert read_node(environment(FOLDER, IS_EXITPOINT=text)).is_exit is value


@pytest.mark.parametrize(
    ("text", "servers"),
    [
        ("localhost", ("nats://localhost:4222",)),
        ("a:1, tls://b ,nats://c:3", ("nats://a:1", "tls://b:4222", "nats://c:3")),
        ("nats://user:pw@a", ("nats://user:pw@a:4222",)),
        ("wss://a/nats,ws://b:8080", ("wss://a/nats", "ws://b:8080")),
    ],
)
def test_servers_get_scheme_and_port(text: str, servers: tuple[str, ...]) -> None:
    assert read_node(environment(FOLDER, NATS_SERVER=text)).nats.servers == servers


def test_several_inputs_win_over_one() -> None:
    settings = read_node(environment(FOLDER, NATS_INPUTS=" a.b , a.c "))

    assert settings.inputs == ("a.b", "a.c")


@pytest.mark.parametrize(
    ("variables", "database"),
    [
        ({}, "data"),
        ({"NATS_MONGO_WRITER": "mongo_writer_data.runtime1"}, "runtime1-data"),
        ({"MONGO_DB_NAME": "mine"}, "mine"),
        ({"MONGO_DB_NAME": "packages", "MONGO_BUCKET": "b"}, "data"),
    ],
)
def test_the_database_follows_kres_rule(variables: dict[str, str], database: str) -> None:
    assert read_node(environment(FOLDER, **variables)).mongo_database == database
    assert read_writer(environment(FOLDER, **variables)).mongo_database == database


@pytest.mark.parametrize(
    ("variables", "wire"),
    [
        ({}, "v2"),
        ({"IS_EXITPOINT": "true"}, "v2"),
        ({"NATS_ENTRYPOINT_SUBJECT": "s.entrypoint"}, "v1"),
        ({"IS_LAST_NODE": "false"}, "v1"),
        ({"IS_LAST_NODE": "", "WIRE": " "}, "v1"),
        ({"WIRE": "v1"}, "v1"),
        ({"IS_LAST_NODE": "true", "WIRE": "v2"}, "v2"),
        ({"IS_LAST_NODE": "true", "NODE_SPEC": "{}"}, "v2"),
    ],
)
def test_the_wire_version_follows_kres_variables_unless_it_is_stated(variables: dict[str, str], wire: str) -> None:
    assert read_node(environment(FOLDER, **variables)).wire == wire


def test_answers_of_the_first_wire_version_go_to_the_streams_entrypoint_unless_stated() -> None:
    stated = environment(FOLDER, NATS_ENTRYPOINT_SUBJECT="other.entrypoint")

    assert read_node(environment(FOLDER, WIRE="v1")).entrypoint == "prod_v1_greeter.entrypoint"
    assert read_node(stated).entrypoint == "other.entrypoint"


def test_a_writer_and_a_manager_report_their_own_problems_alone() -> None:
    with pytest.raises(SettingsError) as writer:
        read_writer({})
    with pytest.raises(SettingsError) as manager:
        read_manager({})

    assert [text.split("'")[1] for text in writer.value.problems] == [
        "KRT_MONGO_URI", "KRT_NATS_MONGO_WRITER", "KRT_NATS_SERVER",
    ]  # fmt: skip
    assert [text.split("'")[1] for text in manager.value.problems] == ["KRT_MANAGER_SPEC", "KRT_NATS_SERVER"]


@pytest.mark.parametrize(
    "server", ["nats://user:secret@h", "user:secret@h", "nats://user:se@cret@h", "a,user:secret@h"]
)
def test_no_credential_appears_in_an_error_or_a_repr(server: str) -> None:
    wrong = problems(environment(FOLDER, NATS_SERVER=f"{server},http://x", MONGO_URI="postgres://user:secret@db"))
    settings = read_node(
        environment(
            FOLDER,
            NATS_SERVER=server,
            MONGO_URI="mongodb://user:secret@db/x?authSource=admin",
            INFLUX_URI="http://user:secret@influx",
            INFLUX_TOKEN="secret",
        )
    )

    assert "secret" not in "".join(wrong)
    assert "cret" not in "".join(wrong)
    assert "cret" not in repr(settings)
    assert "cret" not in repr(read_writer(environment(FOLDER, NATS_SERVER=server, MONGO_URI="mongodb://u:secret@db")))


@pytest.mark.parametrize(
    ("text", "redacted"),
    [
        ("nats://user:pw@host:4222", "nats://***@host:4222"),
        ("cannot reach mongodb+srv://u:p@h/db, nats://h2", "cannot reach mongodb+srv://***@h/db, nats://h2"),
        ("nothing to hide at nats://h:4222", "nothing to hide at nats://h:4222"),
        ("mail somebody@example.org", "mail somebody@example.org"),
    ],
)
def test_the_user_part_of_a_url_is_hidden(text: str, redacted: str) -> None:
    assert redact(text) == redacted


def test_unknown_variables_are_named_with_the_nearest_known_one() -> None:
    environ = {"KRT_NATS_SERVR": "x", "KRT_ZZZZZZZZ": "x", "KRT_WORKFLOW_ID": "x", "PATH": "x", "KRT_NODE_NAME": "x"}

    assert unknown_variables(environ) == [
        "unknown variable KRT_NATS_SERVR; did you mean KRT_NATS_SERVER?",
        "unknown variable KRT_ZZZZZZZZ; it has no effect",
    ]


def test_a_limit_that_a_planned_node_cannot_apply_is_told() -> None:
    limits = {"KRT_NATS_MAX_ACK_PENDING": "5"}

    assert unknown_variables(limits) == []
    assert unknown_variables({**limits, "KRT_NODE_SPEC": "{}"}) == [
        "KRT_NATS_MAX_ACK_PENDING has no effect on a planned node, whose consumer is the manager's"
    ]


def test_every_variable_that_is_read_is_known() -> None:
    read: set[str] = set()

    class Recording(dict[str, str]):
        def get(self, name: str, default: str = "") -> str:  # type: ignore[override]  # only used with a default
            read.add(name)
            return super().get(name, default)

    read_node(Recording(environment(FOLDER, READY_FD="3", NATS_INPUTS="a", MONGO_DB_NAME="x")))
    read_writer(Recording(environment(FOLDER)))
    read_manager(Recording(environment(FOLDER, MANAGER_SPEC="{}")))

    assert read - KNOWN == {"KRT_MONGO_BUCKET"}


def test_a_driver_without_a_spec_is_kres_entrypoint() -> None:
    entrypoint = read_driver(
        {
            "KRT_NATS_SERVER": "nats",
            "KRT_NATS_SUBJECTS_FILE": "/src/conf/nats_subject.json",
            "KRT_REQUEST_TIMEOUT": "60",
        }
    )

    assert (entrypoint.spec, entrypoint.wire, entrypoint.request_timeout_s) == ("", "", 60.0)
    assert entrypoint.subjects_file == Path("/src/conf/nats_subject.json")


def test_a_driver_needs_a_spec_or_kres_file_of_subjects() -> None:
    with pytest.raises(SettingsError) as refused:
        read_driver({"KRT_NATS_SERVER": "nats", "KRT_WIRE": "v3"})

    assert refused.value.problems == (
        "the 'KRT_DRIVER_SPEC' env var is missing (JSON, as `krt run` makes it)",
        "the 'KRT_WIRE' env var is 'v3': expected v1 or v2",
    )


def test_a_model_host_needs_a_server_and_a_spec() -> None:
    with pytest.raises(SettingsError) as refused:
        read_model_host({"KRT_MAX_CLAIM_BYTES": "10"})

    assert refused.value.problems == (
        "the 'KRT_MAX_CLAIM_BYTES' env var is '10': expected bytes, 1024 or more",
        "the 'KRT_MODEL_SPEC' env var is missing (JSON, as `krt model serve` makes it)",
        "the 'KRT_NATS_SERVER' env var is missing (a list of host[:port] or nats://…, e.g. nats://localhost:4222)",
    )
    assert read_model_host({"KRT_NATS_SERVER": "nats", "KRT_MODEL_SPEC": "{}"}).max_claim_bytes == 1024**3


def test_a_runner_of_algorithms_needs_a_server_alone() -> None:
    settings = read_algorithms({"KRT_NATS_SERVER": "nats", "HOME": "/root"})

    assert (settings.adapter, settings.runner, settings.concurrency) == ("runner_adapter", "", 1)
    assert (settings.timeout_s, settings.isolation, settings.replace) == (60.0, "thread", False)
    assert settings.environment == {"HOME": "/root"}


def test_every_problem_of_a_runner_of_algorithms_comes_in_one_report() -> None:
    wrong = {"TIMEOUT": "60", "ISOLATION": "container", "REPLACE": "yes", "CONCURRENCY": "0"}
    environ = {f"KRT_ALGORITHMS_{name}": value for name, value in wrong.items()}

    with pytest.raises(SettingsError) as raised:
        read_algorithms({"KRT_NATS_SERVER": "nats", "KRT_RUNNER_NAME": "a.b", **environ})

    assert list(raised.value.problems) == [
        "the 'KRT_ALGORITHMS_CONCURRENCY' env var is '0': expected a whole number, 1 or more",
        "the 'KRT_ALGORITHMS_ISOLATION' env var is 'container': expected thread or process",
        "the 'KRT_ALGORITHMS_REPLACE' env var is 'yes': expected true, false, 1 or 0",
        "the 'KRT_ALGORITHMS_TIMEOUT' env var is '60': expected a duration, e.g. 500ms, 30s or 2m",
        "the 'KRT_RUNNER_NAME' env var is 'a.b': expected 1 to 64 letters, digits, - and _, e.g. image-runner",
    ]
