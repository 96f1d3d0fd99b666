"""A batch: messages that a stream stores together or not at all, as JetStream takes them (ADR-50, nats-server 2.12)."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

from runtime.errors import BusError, MessageTooLargeError

# Messages of one batch, nats-server's own limit unless `jetstream.limits.batch.max_msgs` says otherwise.
MAX_MESSAGES = 1_000
# Bytes of one batch: half of what may be unconfirmed in a publisher, so that one never fills it alone.
MAX_BYTES = 16 * 1024 * 1024

_BATCH_ID = "Nats-Batch-Id"
_SEQUENCE = "Nats-Batch-Sequence"
_COMMIT = "Nats-Batch-Commit"
# Bytes of these headers at most; an id has up to 64 characters.
HEADER_BYTES = 130


class BatchMessage(NamedTuple):
    """One message of a batch; its `confirm` is called as that of `Publisher.publish`."""

    subject: str
    payload: bytes
    message_id: str
    confirm: Callable[[BusError | None], None]


def headers_of(batch_id: str, number: int, count: int) -> dict[str, str]:
    """Return what makes a message the `number`th of `count`; the last one commits them all."""
    headers = {_BATCH_ID: batch_id, _SEQUENCE: str(number)}
    return headers if number < count else {**headers, _COMMIT: "1"}


def check_size(messages: Sequence[BatchMessage], limit_bytes: int) -> int:
    """Return an upper bound of the bytes of a batch. Raises MessageTooLargeError for it, or for one message of it."""
    sizes = [len(each.payload) + len(each.message_id.encode()) + HEADER_BYTES for each in messages]
    if len(messages) > MAX_MESSAGES or sum(sizes) > MAX_BYTES:
        raise MessageTooLargeError(
            f"{len(messages):,} messages of {sum(sizes):,} bytes are too much to be stored together: {MAX_MESSAGES:,}"
            f" and {MAX_BYTES:,} bytes at most; send less at once, or remove `atomic` from the node"
        )
    for message, size in zip(messages, sizes, strict=True):
        if size > limit_bytes:
            raise MessageTooLargeError(
                f"a message for {message.subject} has {size:,} bytes with its headers, the server takes {limit_bytes:,}"
            )
    return sum(sizes)
