"""The keys `isolation` and `workers` of a node with a handler: where it runs. Their table, and their checks."""

from typing import Any

from runtime.spec.record import Field
from runtime.spec.report import Fault, Report
from runtime.spec.values import Choice, WholeNumber
from runtime.spec.wiring import NodeDraft

# Most worker processes of one replica: each loads the handler, with its models.
MAX_WORKERS = 256

WORKERS = {
    "isolation": Field(
        type=Choice(("thread", "process")),
        default="thread",
        description="Where the handler runs; a process can be killed, and may crash by itself",
    ),
    "workers": Field(
        type=WholeNumber(most=MAX_WORKERS),
        default=1,
        description="Processes of each replica that have the handler, with isolation: process",
    ),
}
# What a node does with the handler's values, or its classes, which a node with worker processes does not have.
_NEEDS_THE_HANDLER = {
    "state": "a state is kept in the process of its node",
    "join": "the parts of a set are put together in the process of the node",
}


def worker_count(values: dict[str, Any]) -> int | None:
    """Take both keys out of the values of a node; return how many worker processes it has, None for none."""
    workers: int = values.pop("workers", 1)
    return workers if values.pop("isolation", "thread") == "process" else None


def check_workers(draft: NodeDraft, report: Report) -> None:
    """Report what does not go together with worker processes."""
    if draft.values.get("isolation") != "process":
        if draft.values.get("workers", 1) > 1:
            what = f'{draft.title} has {draft.values["workers"]} "workers", but its handler runs in a thread'
            report.add(Fault(draft.place, what, 'add "isolation: process", or remove "workers"', "conflict"))
        return
    for key, why in _NEEDS_THE_HANDLER.items():
        if draft.values.get(key):
            what = f'{draft.title} has "isolation: process" and "{key}", but {why}'
            report.add(Fault(draft.place, what, "remove one", "conflict"))
    batching = draft.values.get("batching")
    if batching is not None and batching.by:
        what = f'{draft.title} has "isolation: process" and "by" of "batch", but its messages are read in the workers'
        report.add(Fault(draft.place, what, 'remove one; "max" bounds a call as well', "conflict"))
