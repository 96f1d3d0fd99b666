"""Where a node puts the messages that it gives up."""

import logging
import os
import traceback
from dataclasses import replace
from pathlib import Path

from runtime.bus.base import Publisher
from runtime.bus.dead_letters import LetterClaims, store_dead_letter
from runtime.deadletter import Attempt, DeadLetter, attempts_from_header
from runtime.errors import KrtError
from runtime.node.settle import describe, text_of
from runtime.node.work import Work
from runtime.spec import names

log = logging.getLogger(__name__)

_OUR_FILES = f"{Path(__file__).parents[1]}{os.sep}"
_PYTHONS_FILES = f"{Path(os.__file__).parent}{os.sep}"


class RemoteTraceback(Exception):
    """The cause of a failure that a worker process has told of: where it was raised there."""

    def __init__(self, text: str) -> None:
        super().__init__(f"in the worker process:\n{text}")
        self.text = text


class DeadLetters:
    """Stores dead letters in the workflow's own stream for them; with `keep` False it only logs."""

    def __init__(
        self,
        publisher: Publisher,
        *,
        stream: str,
        node: str,
        handler_version: str,
        keep: bool,
        claims: LetterClaims | None = None,
    ) -> None:
        """claims: keeps payloads that are larger than a message; without it they are left out."""
        self._publisher = publisher
        self._stream = stream
        self._node = node
        self._handler_version = handler_version
        self._keep = keep
        self._claims = claims

    async def store(self, work: Work, reason: str, failure: BaseException, attempts: list[Attempt]) -> None:
        """Store one message with everything about its end; returns once it is stored. Raises BusError."""
        delivery = work.delivery
        subject = names.dead_letter_subject(self._stream, self._node)
        where = subject if self._keep else "nowhere (dead_letter: drop)"
        fields = {"request_id": work.message.request_id, "attempt": delivery.attempt, "action": "dead"}
        log.error(
            "message %d of %s is given up (%s): %s; dead letter in %s",
            delivery.sequence, self._stream, reason, describe(failure), where, extra=fields,
        )  # fmt: skip
        if not self._keep:
            return
        headers = dict(delivery.headers or {})
        earlier = headers.pop(names.ATTEMPTS_HEADER, "")
        letter = DeadLetter(
            node=self._node,
            reason=reason,
            error=f"{type(failure).__name__}: {text_of(failure)}",
            traceback=user_traceback(failure),
            request_id=work.message.request_id,
            stream=self._stream,
            subject=names.source_subject(delivery.subject),
            sequence=delivery.sequence,
            stored_ns=delivery.time_ns,
            attempts=(*attempts_from_header(earlier), *(replace(each, redrive=work.redrive) for each in attempts)),
            handler_version=self._handler_version,
            headers=headers,
            origin=work.origin if work.redrive or work.path else 0,
            redrive=work.redrive,
            path=work.path,
        )
        message_id = names.dead_letter_id(self._node, work.origin, work.redrive, work.path)
        await store_dead_letter(
            self._publisher, subject, delivery.data, letter, message_id=message_id, claims=self._claims
        )


def user_traceback(failure: BaseException) -> str:
    """Return the traceback from the first frame of the user's on: how the runtime got there is of no use."""
    if isinstance(failure.__cause__, RemoteTraceback):
        return failure.__cause__.text
    report = traceback.TracebackException.from_exception(failure)
    while report.stack and report.stack[0].filename.startswith((_OUR_FILES, _PYTHONS_FILES)):
        del report.stack[0]
    return "".join(report.format())


def shown_of(failure: Exception) -> Exception | None:
    """Return what a log shows below the text of a failure that ends the node: the user's frames, without ours above.

    Without any, an error of ours has said everything (None), and another one is shown whole.
    """
    frame = failure.__traceback__
    while frame is not None and _is_installed(frame.tb_frame.f_code.co_filename):
        frame = frame.tb_next
    if frame is not None:
        return failure.with_traceback(frame)
    return None if isinstance(failure, KrtError) else failure


def _is_installed(file: str) -> bool:
    return file.startswith((_OUR_FILES, _PYTHONS_FILES)) or f"{os.sep}site-packages{os.sep}" in file
