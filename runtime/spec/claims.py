"""Payloads that lie in object stores because they are larger than a message: what the stores and objects are called,
and what each sender is told. Pure.

| name | form | kept |
|---|---|---|
| payloads | object store `<stream>_claims`, object `<kind>/<subject>/<hash>/<message id>` | until the message is done |
| payloads of dead letters | object store `<stream>_dlq_claims`, object: id of the letter | as long as dead letters |

The kind is `answer` for what a caller gets, too: nobody acknowledges it, so it is kept for a while. The hash is that of
the payload, its first digits: another payload under the same message id does not replace the one that was stored.
"""

from typing import Annotated, NamedTuple

from pydantic import Field

from runtime.spec import names
from runtime.spec.frozen import Frozen

# Metadata of a stream: what senders of requests are told, as the JSON of a `ClaimsSpec`.
CLAIMS_METADATA = "krt-claims"
# Digits of the payload's hash in the name of its object.
HASH_DIGITS = 16

_ANSWER, _MESSAGE = "answer", "message"


class ClaimsSpec(Frozen):
    """What a sender is told. store: of payloads. room_bytes: how full the sender may make it."""

    store: str
    room_bytes: Annotated[int, Field(ge=0)]


class ClaimObject(NamedTuple):
    """What the name of an object says; see the module."""

    is_answer: bool
    subject: str
    message_id: str


def claims_store(stream: str) -> str:
    """Return the object store of a workflow's payloads."""
    return f"{stream}_{names.CLAIMS_STORE}"


def letter_claims_store(stream: str) -> str:
    """Return the object store of payloads of a workflow's dead letters."""
    return f"{names.dead_letter_stream(stream)}_{names.CLAIMS_STORE}"


def claim_object(subject: str, message_id: str, sha256: str, *, is_answer: bool = False) -> str:
    """Return the object of a message's payload."""
    return f"{_ANSWER if is_answer else _MESSAGE}/{subject}/{sha256[:HASH_DIGITS]}/{message_id}"


def read_claim_object(name: str) -> ClaimObject | None:
    """Return what a name says, None for one that `claim_object` did not make."""
    kind, _, rest = name.partition("/")
    subject, _, rest = rest.partition("/")
    _, _, message_id = rest.partition("/")
    return ClaimObject(kind == _ANSWER, subject, message_id) if message_id and kind in (_ANSWER, _MESSAGE) else None
