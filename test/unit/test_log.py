"""Log lines: one format, one record per line start, and nothing that breaks a message."""

import io
import json
import logging
import os
import re
import warnings
from collections.abc import Iterator
from pathlib import Path

import pytest

from runtime import log as logs

LINE = re.compile(r"^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z (ERROR|WARN|INFO|DEBUG) ")


@pytest.fixture(autouse=True)
def own_root() -> Iterator[None]:
    """Give every test the root logger for itself, and pytest's handlers back after it."""
    root = logging.getLogger()
    handlers, level, raising = root.handlers[:], root.level, logging.raiseExceptions
    filters = logging.getLogger("asyncio").filters[:]
    yield
    for handler in root.handlers:
        if handler not in handlers:
            handler.close()
    root.handlers[:] = handlers
    root.setLevel(level)
    logging.raiseExceptions = raising
    logging.captureWarnings(False)
    logging.getLogger("asyncio").filters[:] = filters


def configured(log_format: str = "text", **options: object) -> io.StringIO:
    stream = io.StringIO()
    logs.configure(log_format=log_format, stream=stream, **options)  # type: ignore[arg-type]  # passed through
    return stream


def test_a_line_has_time_level_message_and_fields() -> None:
    stream = configured()

    extra = {"action": "taken", "request_id": "r1", "attempt": 2, "other": "hidden"}
    logging.getLogger("x").info("took %d", 3, extra=extra)

    line = stream.getvalue()
    assert LINE.match(line)
    assert line.endswith("Z INFO took 3 request_id=r1 attempt=2 action=taken\n")


@pytest.mark.parametrize(
    ("level", "word"), [(logging.WARNING, "WARN"), (logging.CRITICAL, "ERROR"), (logging.ERROR, "ERROR")]
)
def test_levels_have_the_words_of_kre(level: int, word: str) -> None:
    stream = configured()

    logging.getLogger("x").log(level, "text")

    assert stream.getvalue().split()[1] == word


def test_a_message_with_line_breaks_cannot_forge_a_record() -> None:
    stream = configured()

    logging.getLogger("x").info("first\r\n2026-11-21T10:00:00.123Z ERROR forged")
    logging.getLogger("x").info("second", extra={"action": "a\n2026-11-21T10:00:00.123Z ERROR forged"})

    lines = stream.getvalue().splitlines()
    assert [bool(LINE.match(line)) for line in lines] == [True, False, True, False]
    assert [line[:2] for line in lines if not LINE.match(line)] == ["  ", "  "]


def test_a_traceback_is_indented_below_its_record() -> None:
    stream = configured()

    try:
        raise ValueError("two\nlines")
    except ValueError:
        logging.getLogger("x").exception("failed")

    first, *rest = stream.getvalue().splitlines()
    assert LINE.match(first)
    assert rest[0] == "  Traceback (most recent call last):"
    assert all(line.startswith("  ") for line in rest)


def test_json_lines_have_the_constant_fields_and_those_of_the_record() -> None:
    stream = configured("json", fields={"workflow": "w", "node": "n", "replica": 1})

    try:
        raise ValueError("broken")
    except ValueError:
        logging.getLogger("x").exception("fäiled\nhere", extra={"request_id": "r", "attempt": 2, "action": "a"})

    (line,) = stream.getvalue().splitlines()
    record = json.loads(line)
    assert list(record) == [
        "time", "level", "logger", "message", "workflow", "node", "replica", "request_id", "attempt", "action",
        "exception",
    ]  # fmt: skip
    assert (record["message"], record["level"], record["attempt"]) == ("fäiled\nhere", "ERROR", 2)
    assert record["exception"].endswith("ValueError: broken")


def test_warnings_are_records_too() -> None:
    stream = configured()

    with warnings.catch_warnings():
        warnings.simplefilter("always")
        logging.captureWarnings(True)
        warnings.warn("old thing", DeprecationWarning, stacklevel=1)

    assert "WARN" in stream.getvalue()
    assert "old thing" in stream.getvalue()


def test_a_record_with_wrong_arguments_breaks_nothing() -> None:
    configured()

    logging.getLogger("x").info("%d apples", "no number")


def test_the_level_is_kept() -> None:
    stream = configured(level="WARN")

    logging.getLogger("x").info("no")
    logging.getLogger("x").warning("yes")

    assert stream.getvalue().count("\n") == 1


def test_a_file_gets_a_copy_and_text_that_has_no_utf_8_form(tmp_path: Path) -> None:
    file = tmp_path / "app.log"
    configured(file=file)

    logging.getLogger("x").info("half of a pair: \ud83d")
    logging.getLogger("x").info("next")

    assert file.read_text().splitlines()[0].endswith(r"half of a pair: \ud83d")
    assert len(file.read_text().splitlines()) == 2


def test_configuring_again_replaces_the_handlers() -> None:
    first, second = configured(), configured()

    logging.getLogger("x").info("once")

    assert (first.getvalue(), second.getvalue().count("once")) == ("", 1)


def test_the_noise_of_tls_reconnects_is_left_out() -> None:
    stream = configured()

    logging.getLogger("asyncio").warning("returning true from eof_received() has no effect when using ssl")

    assert stream.getvalue() == ""


def test_ready_is_said_once_on_the_pipe() -> None:
    read_end, write_end = os.pipe()

    logs.tell_ready(write_end)

    assert os.read(read_end, 100) == b"ready\n"
    assert os.read(read_end, 100) == b""
    os.close(read_end)


@pytest.mark.parametrize("ready_fd", [None, -1])
def test_ready_is_said_to_nobody_where_nobody_asked(ready_fd: int | None) -> None:
    logs.tell_ready(ready_fd)


def test_a_closed_pipe_is_no_failure() -> None:
    read_end, write_end = os.pipe()
    os.close(read_end)
    os.close(write_end)

    logs.tell_ready(write_end)


@pytest.mark.parametrize("log_format", ["text", "json"])
def test_the_message_of_an_error_is_read_out_of_its_line(log_format: str) -> None:
    stream = configured(log_format)

    logging.getLogger("x").error("no %s = 3 here", "model", extra={"node": "score", "action": "failed"})

    assert logs.read_error(stream.getvalue().rstrip("\n")) == "no model = 3 here"


def test_an_error_with_a_traceback_is_its_first_line() -> None:
    stream = configured()

    try:
        raise ValueError("inside")
    except ValueError:
        logging.getLogger("x").exception("the node has failed", extra={"action": "failed"})

    told = [logs.read_error(line) for line in stream.getvalue().splitlines()]
    assert told[0] == "the node has failed"
    assert set(told[1:]) == {""}


@pytest.mark.parametrize(
    "line",
    [
        "",
        "2026-11-22T10:00:00.000Z WARN no model",
        "ERROR no model",
        '{"level": "INFO", "message": "ready"}',
        "{no json",
    ],
)
def test_any_other_line_holds_no_error(line: str) -> None:
    assert logs.read_error(line) == ""
