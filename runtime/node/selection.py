"""What a node leaves out by `when`: messages that do not fit are acknowledged without a call, and counted.

Asked before the payload is decoded for the handler, and before a state or a join knows of the message. Headers come
first: a payload that lies in an object store is fetched, once, only if they fit. A node without `when` has nothing of
this. Channels are the server's: a node does not get what it does not read.
"""

import logging
from collections.abc import Mapping
from typing import Any, Protocol

from runtime.errors import DecodeError, Drop
from runtime.message import MessageType
from runtime.node.metrics import Counts
from runtime.node.work import Work
from runtime.payload import json_value
from runtime.spec import names
from runtime.spec.selection import NO_CONDITIONS, Conditions

log = logging.getLogger(__name__)


class Skips(Protocol):
    """The messages that are acknowledged without a call; false while there are none."""

    def __bool__(self) -> bool: ...

    def check(self, work: Work) -> None:
        """Raise Drop for such a message. Called when its envelope is read; again once a claimed payload is fetched."""
        ...


class Selection:
    """Skips what does not fit, and what `others` skip. See `Skips`."""

    def __init__(self, when: Mapping[str, Conditions], others: Skips, counts: Counts) -> None:
        """when: by subject, see `NodeSpec.when`."""
        self._when = when
        self._others = others
        self._counts = counts
        # What is asked of the messages of a subject, which may be that of a partition.
        self._asked: dict[str, Conditions] = {}

    def __bool__(self) -> bool:
        return True

    def check(self, work: Work) -> None:
        """Raise Drop for a message that does not fit.

        An ERROR passes, for its caller has to hear of it. So does what was redriven: it has fitted before.
        """
        if self._others:
            self._others.check(work)
        message, subject = work.message, work.delivery.subject
        if message.type is MessageType.ERROR or work.redrive:
            return
        asked = self._asked.get(subject)
        if asked is None:
            asked = self._asked[subject] = self._when.get(names.unpartitioned_subject(subject), NO_CONDITIONS)
        unfit = asked.unfit_header(message.headers)
        if not unfit and asked.fields and (message.claim is None or message.payload):
            unfit = asked.unfit_field(_value_of(message.payload))
        if unfit:
            self._leave_out(work, unfit)

    def _leave_out(self, work: Work, unfit: str) -> None:
        work.replied = True  # on the output node: the answer is that of another message of the request
        self._counts.left_out += 1
        fields = {"action": "left_out", "request_id": work.message.request_id, "attempt": work.delivery.attempt}
        log.debug("message %d is left out: its %s does not fit", work.delivery.sequence, unfit, extra=fields)
        raise Drop(f"{unfit} does not fit")


def _value_of(payload: bytes) -> Any:
    """Return the value of a payload that is JSON, also as bytes; None for any other, which has no fields."""
    try:
        return json_value(payload)
    except DecodeError:
        return None
