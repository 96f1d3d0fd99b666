"""What a node leaves out by `when`: messages whose headers do not fit are acknowledged without a call, and counted.

Asked before the payload is fetched or decoded, and before a state or a join knows of the message. A node without `when`
has nothing of this. Channels are the server's: a node does not get what it does not read.
"""

import logging
from collections.abc import Mapping
from typing import Protocol

from runtime.errors import Drop
from runtime.message import MessageType
from runtime.node.metrics import Counts
from runtime.node.work import Work
from runtime.spec import names
from runtime.spec.node import Conditions
from runtime.spec.selection import unfit_header

log = logging.getLogger(__name__)


class Skips(Protocol):
    """The messages that are acknowledged without a call; false while there are none."""

    def __bool__(self) -> bool: ...

    def check(self, work: Work) -> None:
        """Raise Drop for such a message."""
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
            asked = self._asked[subject] = self._when.get(names.unpartitioned_subject(subject), {})
        if (header := unfit_header(asked, message.headers)) is not None:
            self._leave_out(work, header)

    def _leave_out(self, work: Work, header: str) -> None:
        work.replied = True  # on the output node: the answer is that of another message of the request
        self._counts.left_out += 1
        fields = {"action": "left_out", "request_id": work.message.request_id, "attempt": work.delivery.attempt}
        log.debug("message %d is left out: its header %s does not fit", work.delivery.sequence, header, extra=fields)
        raise Drop(f"header '{header}' does not fit")
