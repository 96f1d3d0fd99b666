"""Envelope bytes: round trips, gzip, limits, and the refusal of what is not ours."""

import gzip
import itertools
import os

import pytest
from google.protobuf.message import DecodeError as ProtobufError
from hypothesis import given
from hypothesis import strategies as st

from runtime import wire
from runtime.errors import DecodeError, MessageTooLargeError
from runtime.message import Claim, Message, MessageType
from runtime.payload import encode_value
from runtime.proto import Envelope
from runtime.proto.packed import whole
from test.support.kre import kre_message

text = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
messages = st.builds(
    Message,
    request_id=text, payload=st.binary(max_size=50), error=text, from_node=text, type=st.sampled_from(MessageType),
    state_id=text, deadline_ms=st.integers(0, 2**62), reply_to=text, traceparent=text,
    headers=st.dictionaries(text, text, max_size=3), outcome=text, first=st.none(),
    claim=st.none(),
)  # fmt: skip
claims = st.builds(Claim, object=text.filter(bool), size=st.integers(0, 2**62), sha256=text)


@given(messages)
def test_a_message_comes_back_as_it_was(message: Message) -> None:
    assert wire.decode(wire.encode(message)) == message


@given(messages)
def test_a_gzipped_message_comes_back_as_it_was(message: Message) -> None:
    assert wire.decode(gzip.compress(wire.encode(message))) == message


@given(messages, claims)
def test_a_claim_comes_back_as_it_was_to_those_who_take_it(message: Message, claim: Claim) -> None:
    claimed = message._replace(payload=b"", claim=claim)

    assert wire.decode(wire.encode(claimed), takes_claims=True) == claimed


@given(messages, claims)
def test_a_claim_takes_the_place_of_a_payload(message: Message, claim: Claim) -> None:
    large = message._replace(payload=b"x" * wire.LARGE_BYTES)

    payload, rest = wire.detach_payload(wire.encode(large))

    assert payload == large.payload
    assert wire.decode(wire.with_claim(rest, claim), takes_claims=True) == message._replace(payload=b"", claim=claim)


def test_a_claim_is_replaced_in_a_gzipped_envelope_too() -> None:
    before, after = (Claim(object=name, size=3, sha256="00") for name in ("before", "after"))

    replaced = wire.with_claim(gzip.compress(wire.encode(Message(request_id="r", claim=before))), after)

    assert wire.decode(replaced, takes_claims=True) == Message(request_id="r", claim=after)


def test_what_gzip_makes_small_is_squeezed_into_the_same_bytes_every_time() -> None:
    data = b"x" * 3 * wire.SQUEEZE_STEP_BYTES

    packed = wire.squeeze(data, 10_000)

    assert packed is not None and gzip.decompress(packed) == data
    assert wire.squeeze(data, 10_000) == packed
    assert wire.squeeze(data, len(packed)) == packed
    assert wire.squeeze(data, len(packed) - 1) is None


@given(st.binary(max_size=200))
def test_any_bytes_are_read_or_refused_with_a_reason(data: bytes) -> None:
    try:
        wire.decode(data)
    except DecodeError as error:
        assert error.reason in ("gzip", "protobuf", "wire", "claim")


@given(messages, st.binary(max_size=20))
def test_an_output_keeps_what_belongs_to_the_request(source: Message, payload: bytes) -> None:
    data = wire.encode_output(source, payload, from_node="me", kind=MessageType.ERROR, error="e", outcome="failed")

    assert wire.decode(data) == source._replace(
        payload=payload, from_node="me", type=MessageType.ERROR, error="e", outcome="failed"
    )


@given(text.filter(bool), st.sampled_from([1, 126, 127, 128, 16_383, 16_384, 2_100_000]), st.sampled_from(MessageType))
def test_an_output_put_together_by_hand_has_the_bytes_that_protobuf_makes(
    request_id: str, size: int, kind: MessageType
) -> None:
    payload = b"x" * size

    by_hand = wire.encode_output(Message(request_id=request_id), payload, from_node="score", kind=kind)

    expected = Envelope(request_id=request_id, payload=payload, from_node="score", message_type=kind)
    assert by_hand == expected.SerializeToString()


@given(messages.filter(lambda message: message.request_id))
def test_a_large_message_has_the_bytes_that_protobuf_makes_and_comes_back(message: Message) -> None:
    large = message._replace(payload=b"x" * wire.LARGE_BYTES)

    data = wire.encode(large)

    assert data == _by_protobuf(large)
    assert wire.decode(data) == large
    assert wire.encode_output(large, large.payload, from_node="n", kind=large.type) == _by_protobuf(
        large._replace(from_node="n", error="", outcome="")
    )


@given(messages, st.lists(st.integers(1, wire.LARGE_BYTES), max_size=5))
def test_a_payload_in_pieces_gives_the_bytes_of_the_whole_one(source: Message, cuts: list[int]) -> None:
    data = b"0123456789abcdef" * (wire.LARGE_BYTES // 16)
    bounds = [0, *sorted(cuts), len(data)]
    pieces = tuple(memoryview(data)[begin:end] for begin, end in itertools.pairwise(bounds))

    assert wire.encode_output(source, pieces, from_node="n", kind=MessageType.OK) == wire.encode_output(
        source, data, from_node="n", kind=MessageType.OK
    )
    assert whole(pieces) == data


@given(messages, st.integers(0, 40), st.integers(1, 10), st.binary(max_size=10))
def test_large_bytes_are_read_as_protobuf_reads_them(message: Message, at: int, gone: int, put: bytes) -> None:
    data = _by_protobuf(message._replace(payload=b"x" * wire.LARGE_BYTES))
    changed = data[:at] + put + data[at + gone :] + _by_protobuf(message)

    try:
        expected = wire._parse(changed)
    except ProtobufError:
        with pytest.raises(ProtobufError):
            wire._split(changed)
    else:
        envelope, payload = wire._split(changed)
        assert (envelope.payload if payload is None else payload) == expected.payload
        assert (envelope.request_id, envelope.from_node) == (expected.request_id, expected.from_node)


def _by_protobuf(message: Message) -> bytes:
    envelope = Envelope(
        request_id=message.request_id, payload=message.payload, error=message.error, from_node=message.from_node,
        message_type=message.type, state_id=message.state_id, deadline=message.deadline_ms, reply_to=message.reply_to,
        traceparent=message.traceparent, headers=message.headers, outcome=message.outcome,
    )  # fmt: skip
    return bytes(envelope.SerializeToString(deterministic=True))


def test_the_same_message_has_the_same_bytes_whatever_the_order_of_its_headers() -> None:
    one = Message(headers={"a": "1", "b": "2", "c": "3"})
    other = Message(headers={"c": "3", "b": "2", "a": "1"})

    assert wire.encode(one) == wire.encode(other)
    outputs = [wire.encode_output(source, b"x", from_node="n", kind=MessageType.OK) for source in (one, other)]
    assert outputs[0] == outputs[1]


def test_kres_second_version_is_read_and_written_byte_for_byte() -> None:
    payload = encode_value({"a": 1})
    theirs = kre_message(2)(request_id="r", error="", from_node="n", message_type=1)
    theirs.payload.ParseFromString(payload)
    ours = Message(request_id="r", payload=payload, from_node="n")

    assert wire.encode(ours) == theirs.SerializeToString()
    assert wire.decode(theirs.SerializeToString()) == ours


KRE_PAYLOAD = {"type_url": "type.googleapis.com/Request", "value": b"text"}
FIRST_VERSION = {
    "an error": {"tracking_id": "t", "reply": "r", "error": "broken"},
    "a reply": {"tracking_id": "t", "reply": "r", "replied": True},
    "an early exit": {"tracking_id": "t", "early_exit": True},
    "two trackings": {"tracking": [{"node_name": "a"}, {"node_name": "b"}]},
    "a payload": {"tracking_id": "t", "payload": dict(KRE_PAYLOAD, value=b"\x08\xff")},
    "a payload of text": {"reply": "r", "payload": KRE_PAYLOAD},
}


@pytest.mark.parametrize("fields", FIRST_VERSION.values(), ids=FIRST_VERSION.keys())
def test_kres_first_version_is_refused_by_name(fields: dict[str, object]) -> None:
    data = kre_message(1)(**fields).SerializeToString()

    with pytest.raises(DecodeError, match="KRT_WIRE=v1") as raised:
        wire.decode(data)

    assert raised.value.reason == "wire"


@pytest.mark.parametrize(
    ("data", "reason", "text"),
    [
        (b"\xff\xff\xff", "protobuf", "3 bytes that are no envelope"),
        (b"\x30\x01\x22\xff", "protobuf", "4 bytes that are no envelope"),
        (b"\x28\x07", "protobuf", "unknown message_type 7; this runtime knows 0 to 4"),
        (b"\x28\x01\xb2\x01\x03abc", "claim", "the payload lies in an object store"),
        (b"\x1f\x8bnonsense", "gzip", "broken gzip"),
        (gzip.compress(b"x" * 1_000, mtime=0)[:-12], "gzip", "gzip ends in the middle"),
    ],
)
def test_what_cannot_be_read_has_a_reason(data: bytes, reason: str, text: str) -> None:
    with pytest.raises(DecodeError, match=text) as raised:
        wire.decode(data)

    assert raised.value.reason == reason


def test_a_zip_bomb_is_refused_without_being_unpacked() -> None:
    bomb = gzip.compress(gzip.compress(b"\0" * 50_000_000))
    bomb = gzip.decompress(bomb)

    with pytest.raises(DecodeError, match=r"unpacks to more than 1,000,000 bytes \(KRT_MAX_INFLATED_BYTES\)"):
        wire.decode(bomb, max_inflated_bytes=1_000_000)


@pytest.mark.parametrize("size", [999, 1_000])
def test_what_unpacks_to_no_more_than_the_limit_passes(size: int) -> None:
    assert wire.inflate(gzip.compress(b"a" * size), 1_000) == b"a" * size


def test_a_message_that_fits_is_left_alone() -> None:
    data = os.urandom(10_000 - wire.HEADER_ROOM_BYTES)

    assert wire.fit(data, 10_000) is data


def test_a_larger_one_is_packed_the_same_way_every_time() -> None:
    data = b"a" * 100_000

    packed = wire.fit(data, 10_000)

    assert packed == wire.fit(data, 10_000)
    assert packed[:2] == wire.GZIP_MAGIC
    assert len(packed) <= 10_000 - wire.HEADER_ROOM_BYTES
    assert wire.inflate(packed, 200_000) == data


def test_what_does_not_fit_even_packed_is_refused_with_both_sizes() -> None:
    with pytest.raises(MessageTooLargeError, match="compressed message exceeds maximum size allowed") as raised:
        wire.fit(os.urandom(20_000), 10_000)

    assert "of 10,000 bytes (20,000 before compression)" in str(raised.value)


@pytest.mark.parametrize("headers", [{}, {"kind": "scan"}])
@pytest.mark.parametrize("run_us", [0, 1, 300, 5_000_000])
def test_an_output_tells_how_long_its_handler_ran_and_is_otherwise_the_same(
    headers: dict[str, str], run_us: int
) -> None:
    source = Message(request_id="r1", headers=headers)

    data = wire.encode_output(source, b"", from_node="score", kind=MessageType.OK, run_us=run_us)

    silent = wire.encode_output(source, b"", from_node="score", kind=MessageType.OK)
    assert wire.run_time_us(data) == run_us
    assert wire.decode(data) == wire.decode(silent)
    assert data.startswith(silent)
