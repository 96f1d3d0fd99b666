"""The envelope as a value."""

from datetime import UTC, datetime

import pytest

from runtime.message import Message, MessageType, ReplyOutcome, new_request_id


def test_a_message_is_ok_and_empty_unless_said_otherwise() -> None:
    message = Message()

    assert (message.type, message.request_id, message.payload, message.deadline_ms) == (MessageType.OK, "", b"", 0)
    assert dict(message.headers) == {}


def test_the_headers_of_no_message_can_be_written_to() -> None:
    with pytest.raises(TypeError):
        Message().headers["a"] = "b"  # type: ignore[index]  # that is the point


def test_a_message_cannot_be_changed() -> None:
    with pytest.raises(AttributeError):
        Message().request_id = "x"  # type: ignore[misc]  # that is the point


def test_a_deadline_is_an_aware_time() -> None:
    assert Message(deadline_ms=1_500).deadline == datetime(1970, 1, 1, 0, 0, 1, 500_000, UTC)
    assert Message().deadline is None


def test_types_and_outcomes_have_the_values_of_the_wire() -> None:
    assert [(kind.name, kind.value) for kind in MessageType] == [
        ("UNDEFINED", 0), ("OK", 1), ("ERROR", 2), ("EARLY_REPLY", 3), ("EARLY_EXIT", 4),
    ]  # fmt: skip
    assert [outcome.value for outcome in ReplyOutcome] == [
        "ok",
        "invalid",
        "too-large",
        "failed",
        "timeout",
        "unavailable",
        "busy",
    ]


def test_request_ids_differ() -> None:
    ids = {new_request_id() for _ in range(1_000)}

    assert len(ids) == 1_000
    assert {len(each) for each in ids} == {32}
