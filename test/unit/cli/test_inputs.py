"""Arguments and files -> inputs: every bad one is told by its place."""

import io
import sys
from pathlib import Path

import pytest
from google.protobuf import duration_pb2, source_context_pb2

from runtime.cli.inputs import converter, read_argument, read_inputs
from runtime.cli.options import parse_duration_s, parse_headers
from runtime.cli.target import Target
from runtime.errors import ConfigError

TARGET = Target(name="hello", nats="nats://127.0.0.1:1", stream="s")


# --- one ---


def test_an_argument_is_json_a_file_or_the_standard_input(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "in.json").write_text("[1, 2]")
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b'"typed"')))

    assert read_argument('{"name": "Ada"}') == {"name": "Ada"}
    assert read_argument(f"@{tmp_path}/in.json") == [1, 2]
    assert read_argument("-") == "typed"


def test_a_bare_word_gives_the_quoting_it_needs() -> None:
    with pytest.raises(ConfigError) as caught:
        read_argument("hello")

    assert str(caught.value).endswith("; a text needs quotes of its own: '\"hello\"'")


def test_broken_json_and_missing_files_are_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="is not JSON"):
        read_argument('{"a": ')
    with pytest.raises(ConfigError, match=r"none\.json: No such file"):
        read_argument(f"@{tmp_path}/none.json")


def test_durations_have_a_unit() -> None:
    assert [parse_duration_s(text) for text in ("500ms", "30s", "2m")] == [0.5, 30.0, 120.0]
    with pytest.raises(ConfigError, match=r'"30" is no duration; .*: 30s'):
        parse_duration_s("30")
    with pytest.raises(ConfigError, match="above 0"):
        parse_duration_s("0s")


def test_headers_are_key_and_value() -> None:
    assert parse_headers(["a=1", "b=x=y"]) == {"a": "1", "b": "x=y"}
    with pytest.raises(ConfigError, match="write KEY=VALUE"):
        parse_headers(["a"])


# --- many ---


def test_json_lines_are_read_and_bad_ones_keep_their_line_number(tmp_path: Path) -> None:
    file = tmp_path / "in.jsonl"
    file.write_text('{"n": 1}\n\noops\n2\n')

    found = list(read_inputs(file))

    assert [(one.index, one.line, one.value) for one in found] == [(0, 1, {"n": 1}), (1, 3, None), (2, 4, 2)]
    assert [bool(one.fault) for one in found] == [False, True, False]
    assert found[1].fault.startswith("line 3 is not JSON")


def test_cells_become_numbers_and_booleans_unless_they_are_to_stay_texts(tmp_path: Path) -> None:
    file = tmp_path / "in.csv"
    file.write_text("a,b,c,d,e,f\n1,-2.5e3,True,007,,nan\n")

    assert [one.value for one in read_inputs(file)] == [
        {"a": 1, "b": -2500.0, "c": True, "d": "007", "e": "", "f": "nan"}
    ]
    assert [one.value for one in read_inputs(file, as_text=True)] == [
        {"a": "1", "b": "-2.5e3", "c": "True", "d": "007", "e": "", "f": "nan"}
    ]


def test_a_row_that_does_not_fit_the_header_is_a_fault_and_the_next_one_is_read(tmp_path: Path) -> None:
    file = tmp_path / "in.csv"
    file.write_text('a,b\n1\n"x\ny",2\n3,4\n')

    found = list(read_inputs(file))

    assert [one.fault for one in found] == ["line 2 has 1 values, the first row 2", "", ""]
    assert [one.value for one in found[1:]] == [{"a": "x\ny", "b": 2}, {"a": 3, "b": 4}]
    assert found[2].line == 5


def test_the_limit_counts_bad_lines_too(tmp_path: Path) -> None:
    file = tmp_path / "in.jsonl"
    file.write_text("1\noops\n3\n")

    assert [one.index for one in read_inputs(file, limit=2)] == [0, 1]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("in.txt", "1", "neither .jsonl nor .csv"),
        ("in.csv", "", "a first row with a name for each column"),
        ("in.csv", "a,a\n1,2\n", "each once"),
        ("none/in.jsonl", None, "No such file"),
    ],
)
def test_a_file_that_cannot_be_read_at_all_is_refused(
    tmp_path: Path, name: str, content: str | None, message: str
) -> None:
    if content is not None:
        (tmp_path / name).write_text(content)

    with pytest.raises(ConfigError, match=message):
        list(read_inputs(tmp_path / name))


# --- protobuf ---


def test_json_becomes_the_named_message() -> None:
    convert = converter("google.protobuf.source_context_pb2:SourceContext", TARGET)

    assert convert({"file_name": "x"}) == source_context_pb2.SourceContext(file_name="x")
    with pytest.raises(ConfigError, match=r"does not fit google\.protobuf\.SourceContext"):
        convert({"nonsense": 1})
    with pytest.raises(ConfigError, match=r"does not fit google\.protobuf\.SourceContext"):
        convert(5)


def test_without_a_message_the_json_is_sent_as_it_is() -> None:
    assert converter("", TARGET)({"a": 1}) == {"a": 1}


def test_the_message_is_imported_from_the_handlers_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "path", list(sys.path))
    (tmp_path / "workflow.yaml").write_text("name: hello\nnodes: [{name: greet, handler: src/greet.py}]\n")
    (tmp_path / "src").mkdir()
    (tmp_path / "src" / "greeter_pb2_of_test.py").write_text(
        "from google.protobuf.duration_pb2 import Duration as Greeting\n"
    )

    convert = converter(
        "greeter_pb2_of_test:Greeting", Target(name=str(tmp_path), nats="nats://127.0.0.1:1", stream="s")
    )

    assert convert("5s") == duration_pb2.Duration(seconds=5)


@pytest.mark.parametrize(
    ("reference", "message"),
    [
        ("Greeting", "write MODULE:CLASS"),
        ("no_such_module:Greeting", "cannot be imported"),
        ("google.protobuf.duration_pb2:Greeting", "no protobuf message Greeting"),
        ("json:JSONDecoder", "no protobuf message JSONDecoder"),
    ],
)
def test_a_wrong_message_is_refused(reference: str, message: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "path", list(sys.path))

    with pytest.raises(ConfigError, match=message):
        converter(reference, TARGET)
