"""A node that joins, as its process and the probe of its handler read it."""

from runtime.spec.frozen import Frozen


class JoinSpec(Frozen):
    """A node that waits for all parts of a set.

    parts: each input, by its subject without a partition, with the name of its part; the handler gets them in this
    order. key: `request_id`, `state_id` or `header.<name>`. partial: an incomplete set is handled, too, after
    `timeout_s` from its first part; otherwise it is a dead letter.
    """

    bucket: str
    parts: dict[str, str]
    key: str
    timeout_s: float
    partial: bool
