"""Messages, dead letters and spans of time as people read them."""

import json
from dataclasses import replace
from typing import Any

import numpy as np
import pyarrow as pa  # type: ignore[import-untyped]  # it ships no types
import pytest

from runtime import File, wire
from runtime.bus.stored import StoredMessage
from runtime.cli.letter_text import letter_record, letter_text
from runtime.cli.message_text import message_record, message_text
from runtime.cli.options import parse_moment_ns
from runtime.cli.outputs import json_line
from runtime.cli.quantities import span
from runtime.deadletter import Attempt
from runtime.errors import ConfigError
from runtime.inspection.letters import Letter
from runtime.inspection.seen import see
from runtime.message import Message, MessageType
from runtime.payload import encode_value
from runtime.proto.packed import any_head
from test.support.letters import LETTER, envelope

NOW_NS = 1_800_000_000_000_000_000
STORED_NS = NOW_NS - 90_000_000_000


def stored(data: bytes, headers: dict[str, str] | None = None) -> StoredMessage:
    return StoredMessage("local_dev_flow.score", 17, data, headers or {"Nats-Msg-Id": "score.3.0"}, STORED_NS)


def test_a_message_is_a_line_about_it_and_its_value() -> None:
    seen = see(stored(envelope({"n": 1})))

    assert message_text(seen, NOW_NS) == (
        '#17  score  2027-01-15T07:58:30.000Z (90s ago)  request r1  61 B  krt.Json\n  {\n    "n": 1\n  }'
    )


def test_an_error_and_bytes_that_cannot_be_read_say_so() -> None:
    error = see(stored(wire.encode(Message(request_id="r1", type=MessageType.ERROR, error="no such city"))))
    broken = see(stored(b"\xff"))

    assert message_text(error, NOW_NS).endswith("no payload  ERROR\n  error: no such city")
    assert message_text(broken, NOW_NS).endswith("1 B  no payload\n  cannot be read: " + broken.fault)
    assert broken.fault


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (np.zeros((3, 224, 224), np.float32), "Array float32 (3, 224, 224), 602,112 bytes"),
        (pa.table({"a": [1]}), "Table, 288 bytes"),
        (File(b"123", "image/png", "cat.png"), "File image/png 'cat.png', 3 bytes"),
    ],
)
def test_arrays_tables_and_files_are_a_line(value: Any, text: str) -> None:
    seen = see(stored(envelope(value)))

    assert message_text(seen, NOW_NS).endswith(f'\n  "{text}"')
    assert json.loads(json_line(message_record(seen)))["value"] == text


def test_a_native_value_that_is_broken_says_so() -> None:
    seen = see(stored(wire.encode(Message(payload=any_head("krt.Array") + b"\x09"))))

    assert "cut off" in seen.fault


def test_the_record_of_a_message_has_everything() -> None:
    message = Message(request_id="r1", payload=encode_value(b"\x00"), from_node="score")
    seen = see(stored(wire.encode(message), {"Nats-Msg-Id": "a", "Krt-Redrive": "2"}))

    record = json.loads(json_line(message_record(seen)))

    assert record == {
        "sequence": 17, "subject": "local_dev_flow.score", "stored": "2027-01-15T07:58:30.000Z",
        "size_bytes": 68, "message_id": "a", "redrive": 2, "run_s": None, "request_id": "r1", "from_node": "score",
        "type": "OK", "error": "", "payload_type": "google.protobuf.BytesValue", "value": {"base64": "AA=="},
        "fault": "",
        "claim": None,
    }  # fmt: skip


def test_a_letter_shows_the_attempts_of_each_redrive_and_an_input_that_is_lost() -> None:
    attempts = tuple(Attempt(attempt=1, time_s=1.5, error=f"error {number}", redrive=number) for number in (0, 1))
    letter = Letter(id=3, died_ns=STORED_NS, body=b"", letter=replace(LETTER, attempts=attempts))

    text = letter_text(letter, None, NOW_NS)

    assert "attempts\n  1  1970-01-01T00:00:01.500Z  error 0\nattempts after redrive 1\n  1  1970" in text
    assert "input\n  too large to be kept here, and purged from the stream" in text
    assert letter_record(letter)["id"] == 3


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(400_000, "5d"), (8_000, "2h"), (150, "2m"), (17, "17s"), (1.26, "1.3s"), (0.42, "420ms"), (63e-6, "63µs")],
)
def test_a_span_is_told_in_one_unit(seconds: float, text: str) -> None:
    assert span(seconds) == text


@pytest.mark.parametrize(
    ("text", "moment_ns"),
    [
        ("", None),
        ("2h", NOW_NS - 7_200_000_000_000),
        ("2026-11-21T14:00", 1_795_269_600_000_000_000),
        ("2026-11-21T14:00+01:00", 1_795_266_000_000_000_000),
    ],
)
def test_a_moment_is_a_span_before_now_or_a_time(text: str, moment_ns: int | None) -> None:
    assert parse_moment_ns(text, NOW_NS) == moment_ns


def test_anything_else_is_no_moment() -> None:
    with pytest.raises(ConfigError):
        parse_moment_ns("yesterday", NOW_NS)
