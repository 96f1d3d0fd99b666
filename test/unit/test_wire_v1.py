"""KRE's first wire version: its exact bytes, what is read leniently, and the refusal of the second one."""

import gzip
import os
from datetime import datetime
from typing import Any

import pytest
from google.protobuf import any_pb2

from runtime import wire, wire_v1
from runtime.errors import DecodeError, MessageTooLargeError
from runtime.message import Message, MessageType
from runtime.payload import encode_value
from test.support.kre import kre_message

KreNatsMessage = kre_message(1)

# 2022-11-15 10:00:00 UTC, and 250 milliseconds later.
START_NS = 1_668_506_400_000_000_000
END_NS = START_NS + 250_000_000

PASSED = {"node_name": "clean", "start": "2022-11-15T09:59:58", "end": "2022-11-15T09:59:59.500000"}
OWN = {"node_name": "score", "start": "2022-11-15T10:00:00.000000", "end": "2022-11-15T10:00:00.250000"}
PAYLOAD = {"type_url": "type.googleapis.com/Request", "value": b"\x0a\x02\xff\xfe"}
PAYLOAD_BYTES = any_pb2.Any(**PAYLOAD).SerializeToString()  # type: ignore[arg-type]  # text and bytes, as it takes


def kre(**fields: Any) -> bytes:
    return bytes(KreNatsMessage(**fields).SerializeToString())


def read(data: bytes) -> Message:
    return wire_v1.decode(data, now_ns=START_NS)


def test_an_output_has_kres_bytes() -> None:
    source = read(kre(tracking_id="t", tracking=[PASSED], reply="r", payload=PAYLOAD))

    data = wire_v1.encode_output(source, PAYLOAD_BYTES, node="score", end_ns=END_NS, replied=True)

    assert data == kre(tracking_id="t", tracking=[PASSED, OWN], reply="r", payload=PAYLOAD, replied=True)
    assert data == (
        b"\x0a\x01t"  # 1: tracking_id
        b"\x12\x38\x0a\x05clean\x12\x132022-11-15T09:59:58\x1a\x1a2022-11-15T09:59:59.500000"  # 2: tracking
        b"\x12\x3f\x0a\x05score\x12\x1a2022-11-15T10:00:00.000000\x1a\x1a2022-11-15T10:00:00.250000"
        b"\x1a\x01r"  # 3: reply
        b"\x22\x23\x0a\x1btype.googleapis.com/Request\x12\x04\x0a\x02\xff\xfe"  # 4: payload
        b"\x30\x01"  # 6: replied
    )


def test_an_error_and_an_early_reply_have_kres_bytes() -> None:
    source = read(kre(tracking_id="t", tracking=[PASSED], reply="r", payload=PAYLOAD))

    assert wire_v1.encode_error(source, "error in 'score': no") == kre(
        tracking_id="t", reply="r", error="error in 'score': no"
    )
    assert wire_v1.encode_reply(source, PAYLOAD_BYTES) == kre(reply="r", payload=PAYLOAD)


def test_a_message_is_read_with_everything_that_it_has() -> None:
    data = kre(tracking_id="t", tracking=[PASSED], reply="r", payload=PAYLOAD, replied=True, early_exit=True)

    message = read(gzip.compress(data))

    assert (message.request_id, message.type, message.from_node) == ("r", MessageType.OK, "clean")
    assert message.payload == PAYLOAD_BYTES
    first = wire_v1.first_of(message)
    assert (first.tracking_id, first.replied, first.early_exit, first.start_ns) == ("t", True, True, START_NS)
    assert wire_v1.read_passage(first.tracking[0]) == (
        "clean", datetime(2022, 11, 15, 9, 59, 58), datetime(2022, 11, 15, 9, 59, 59, 500_000),
    )  # fmt: skip


def test_an_error_is_read_as_one() -> None:
    message = read(kre(reply="r", error="error in 'clean': no"))

    assert (message.type, message.error, message.from_node) == (MessageType.ERROR, "error in 'clean': no", "entrypoint")


@pytest.mark.parametrize(
    "entry",
    [
        {"node_name": "clean", "start": "2022-11-15T10:00:00Z", "end": "2022-11-15T10:00:00+01:00"},
        {"node_name": "clean", "start": "yesterday"},
        {"node_name": "clean"},
    ],
    ids=["a zone", "no time", "nothing"],
)
def test_a_time_that_kre_does_not_write_is_none(entry: dict[str, str]) -> None:
    message = read(kre(reply="r", tracking=[entry]))

    passage = wire_v1.read_passage(wire_v1.first_of(message).tracking[0])
    assert passage == ("clean", None, None)
    assert message.from_node == "clean"


def test_a_tracking_entry_that_is_none_is_passed_on_as_it_came() -> None:
    broken = b"\x12\x03\x0a\x05\xff"
    message = read(broken)

    data = wire_v1.encode_output(message, b"", node="score", end_ns=END_NS, replied=False)

    assert message.from_node == "entrypoint"
    assert data.startswith(broken)


SECOND_VERSION = {
    "a plain message": Message(request_id="r", payload=encode_value({"a": 1}), from_node="clean"),
    "a payload that is no text": Message(request_id="r", payload=PAYLOAD_BYTES, from_node="clean"),
    "an error": Message(request_id="r", error="no", type=MessageType.ERROR),
}


@pytest.mark.parametrize("message", SECOND_VERSION.values(), ids=SECOND_VERSION.keys())
def test_kres_second_version_is_refused_by_name(message: Message) -> None:
    with pytest.raises(DecodeError, match="KRT_WIRE=v2") as raised:
        read(wire.encode(message))

    assert raised.value.reason == "wire"


@pytest.mark.parametrize(
    ("data", "reason"), [(b"\xff\xff\xff", "protobuf"), (b"\x1f\x8bnonsense", "gzip"), (b"\x0a\x01\xff", "protobuf")]
)
def test_what_cannot_be_read_has_a_reason(data: bytes, reason: str) -> None:
    with pytest.raises(DecodeError) as raised:
        read(data)

    assert raised.value.reason == reason


def test_what_is_too_large_even_packed_is_told_in_kres_words() -> None:
    data = os.urandom(2_000 * 1024)

    with pytest.raises(MessageTooLargeError) as raised:
        wire_v1.fit(data, 1024 * 1024)

    packed_kb = len(wire.compress(data)) / 1024
    assert str(raised.value) == f"compressed message {packed_kb:.2f} KB exceeds maximum size allowed of 1024.00 KB."


def test_what_fits_is_left_alone_or_packed() -> None:
    assert wire_v1.fit(b"a" * 100, 10_000) == b"a" * 100
    assert gzip.decompress(wire_v1.fit(b"a" * 100_000, 10_000)) == b"a" * 100_000
