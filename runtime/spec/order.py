"""Checks of `order`, `state`, `join` and `atomic`: beside each other, and beside what other nodes say. Pure."""

from collections.abc import Sequence

from runtime.spec.model import Node, Order, Source, State, Workflow
from runtime.spec.report import Fault, Report
from runtime.spec.wiring import NodeDraft


def check_order(drafts: Sequence[NodeDraft], report: Report) -> None:
    """Report nodes that ask for what does not go together, and outputs whose readers disagree on the partitions."""
    first: dict[Source, NodeDraft] = {}
    for draft in drafts:
        _check_keys(draft, report)
        for source in draft.resolved if _partitions(draft) else ():
            earlier = first.setdefault(source, draft)
            if _partitions(earlier) != _partitions(draft):
                report.add(_differing(earlier, draft, source))


def _check_keys(draft: NodeDraft, report: Report) -> None:
    given = draft.values.keys()
    if given >= {"order", "state"}:
        what = f'{draft.title} has "state" and "order", but a state is ordered anyway'
        report.add(Fault(draft.place, what, 'remove "order"', "conflict"))
    for key in sorted({"order", "state"} & given if "join" in given else ()):
        what = f'{draft.title} has "join" and "{key}", but a set of parts has no place in an order'
        report.add(Fault(draft.place, what, f'remove one, or put "{key}" on a node behind it', "conflict"))
    for key in sorted({"state", "join"} & given if draft.values.get("atomic") else ()):
        what = f'{draft.title} has "atomic" and "{key}", which publishes in a way of its own'
        report.add(Fault(draft.place, what, 'remove one, or put "atomic" on a node behind it', "conflict"))
    if given >= {"sources", "join"}:
        what = f'{draft.title} has "from" and "join"; "join" waits for all parts, "from" takes any'
        report.add(Fault(draft.place, what, "keep one", "from-and-join"))


def warn_of_order(drafts: Sequence[NodeDraft], workflow: Workflow, report: Report) -> None:
    """Warn of an order that is lost before the node that wants it, and of replicas that never get a partition."""
    for draft, node in zip(drafts, workflow.nodes, strict=True):
        if node.partitions is None:
            continue
        for unordered in _unordered_sources(node, workflow):
            what = f'{draft.title} is ordered, but "{unordered}", which it reads, is not, and may overtake itself'
            remedy = f'give "{unordered}" order: true, or expect messages of one state id in any order'
            report.add(Fault(draft.place, what, remedy, "order-at-risk"), warning=True)
        most = node.scaling.max if node.scaling else node.replicas
        if most > node.partitions:
            what = f"{draft.title} has {most} replicas for {node.partitions} partitions"
            remedy = "lower the replicas, or give it more partitions"
            report.add(Fault(draft.place, what, remedy, "idle-replicas"), warning=True)


def _partitions(draft: NodeDraft) -> int | None:
    ordering: Order | State | None = draft.values.get("state") or draft.values.get("order")
    return ordering.partitions if ordering else None


def _differing(earlier: NodeDraft, draft: NodeDraft, source: Source) -> Fault:
    counts = f"{_partitions(earlier)} and {_partitions(draft)}"
    what = f'"{earlier.name}" and "{draft.name}" read "{source}" with {counts} partitions'
    place = next((written.place for written in draft.sources if str(written) == str(source)), draft.place)
    return Fault(place, what, "give both the same number", "partitions-differ")


def _unordered_sources(node: Node, workflow: Workflow) -> list[str]:
    """Return the nodes that the node reads and that may overtake themselves: by a retry, a replica, or at once."""
    known = {each.name: each for each in workflow.nodes}
    sources = dict.fromkeys(source.node for source in node.sources)
    return [name for name in sources if name in known and known[name].partitions is None]
