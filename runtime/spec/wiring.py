"""Which node reads what: sources looked up, loops found. Works on drafts, so that it also runs on a faulty file."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from runtime.spec import names
from runtime.spec.model import Source
from runtime.spec.report import Fault, Place, Report, did_you_mean
from runtime.spec.sources import WrittenSource

# Longest name that the server takes for a consumer: it names a folder with it.
MAX_DURABLE_LENGTH = 255
# Characters that a partition adds to it at most: `_p255`.
PARTITION_LENGTH = 5
# Nodes of a loop that a problem writes out.
MAX_LOOP_SHOWN = 8


@dataclass(slots=True, kw_only=True)
class NodeDraft:
    """A node between the file and the model.

    name: as written, "" where there is none. title: how problems name the node. place, handler_place: where its name
    and its handler's path stand. values: what could be read, named as in the model. handler: "" where it is unusable.
    """

    name: str
    title: str
    place: Place
    values: dict[str, Any]
    handler: str
    handler_place: Place
    sources: tuple[WrittenSource, ...] = ()
    resolved: tuple[Source, ...] = field(default=(), init=False)

    @property
    def is_sink(self) -> bool:
        """Whether the node has no code and sends nothing."""
        return self.values.get("kind") == "sink"


def wire(drafts: Sequence[NodeDraft], drivers: Sequence[str], report: Report) -> None:
    """Give every draft its sources: those written, else the node above that is no sink, else the entrypoint."""
    _check_names(drafts, report)
    nodes = _by_name(drafts)
    above = names.ENTRYPOINT
    for draft in drafts:
        # A node above without a name has been reported; what is read from it is not known.
        if not draft.sources and not {"sources", "join"} & draft.values.keys() and above:
            draft.sources = (WrittenSource(above, "", draft.place),)
        draft.resolved = tuple(_resolved(draft, nodes, drivers, report))
        _check_durable(draft, report)
        above = above if draft.is_sink else draft.name
    for loop in _loops(nodes):
        report.add(loop)


def _by_name(drafts: Sequence[NodeDraft]) -> dict[str, NodeDraft]:
    """Return the nodes that a source may name: of two with one name the first, and never the virtual source."""
    nodes: dict[str, NodeDraft] = {}
    for draft in drafts:
        if draft.name not in ("", names.ENTRYPOINT):
            nodes.setdefault(draft.name, draft)
    return nodes


def check_output(output: WrittenSource, drafts: Sequence[NodeDraft], report: Report) -> None:
    """Report an output that no node provides."""
    known = _by_name(drafts)
    if output.node not in known:
        what = f'the output is "{output}", which no node provides'
        report.add(Fault(output.place, what, did_you_mean(output.node, known), "unknown-source"))


def _check_names(drafts: Sequence[NodeDraft], report: Report) -> None:
    first: dict[str, NodeDraft] = {}
    for draft in drafts:
        if draft.name == names.ENTRYPOINT:
            what = f"{draft.title} has the name of the virtual source"
            report.add(Fault(draft.place, what, "choose another name", "reserved-name"))
        elif draft.name and draft.name in first:
            what = f"{draft.title} is defined twice, first at line {first[draft.name].place.line}"
            report.add(Fault(draft.place, what, "rename one", "duplicate-name"))
        first.setdefault(draft.name, draft)


def _resolved(
    draft: NodeDraft, nodes: dict[str, NodeDraft], drivers: Sequence[str], report: Report
) -> Iterator[Source]:
    seen: set[str] = set()
    for written in draft.sources:
        with report.collecting():
            _check_source(written, draft, nodes, drivers)
            if str(written) in seen:
                raise Fault(written.place, f'{draft.title} reads "{written}" twice', "keep one", "duplicate-source")
        if str(written) not in seen:
            yield Source(node=written.node, channel=written.channel)
        seen.add(str(written))


def _check_source(
    written: WrittenSource, draft: NodeDraft, nodes: dict[str, NodeDraft], drivers: Sequence[str]
) -> None:
    reads = f'{draft.title} reads from "{written}"'
    if written.node == names.ENTRYPOINT:
        if written.channel:
            remedy = f"write from: {names.ENTRYPOINT}"
            raise Fault(written.place, f"{reads}, but the entrypoint has no channels", remedy, "unknown-channel")
        return
    if written.node in nodes:
        if nodes[written.node].is_sink:
            raise _reads_a_sink(written, reads, nodes)
        return
    if written.node in drivers:
        remedy = f'drivers feed "{names.ENTRYPOINT}": write from: {names.ENTRYPOINT}'
        raise Fault(written.place, f"{reads}, a driver", remedy, "driver-source")
    others = [name for name in nodes if name != draft.name]
    remedy = did_you_mean(written.node, [*others, names.ENTRYPOINT])
    raise Fault(written.place, f"{reads}, which no node provides", remedy, "unknown-source")


def _reads_a_sink(written: WrittenSource, reads: str, nodes: dict[str, NodeDraft]) -> Fault:
    """Return the fault of a source that sends nothing; its own is likely to be meant."""
    meant = next((str(source) for source in nodes[written.node].sources if str(source) != str(written)), "")
    remedy = f'read from "{meant}"' if meant else "read from a node with code"
    return Fault(written.place, f"{reads}, a sink, which sends nothing", remedy, "sink-source")


def _check_durable(draft: NodeDraft, report: Report) -> None:
    length = len(names.durable(draft.name, [str(source) for source in draft.resolved]))
    length += PARTITION_LENGTH if draft.values.get("order") or draft.values.get("state") else 0
    if length > MAX_DURABLE_LENGTH:
        what = f"{draft.title} reads so many sources that its consumer's name has {length} characters"
        remedy = f"shorten the names, the server takes {MAX_DURABLE_LENGTH}; or gather the sources in a node before"
        report.add(Fault(draft.place, what, remedy, "too-many-sources"))


def _loops(nodes: dict[str, NodeDraft]) -> Iterator[Fault]:
    """Yield one fault per source that closes a loop: a depth-first walk against the stream, without recursion."""
    done: set[str] = set()
    for start in nodes:
        if start in done:
            continue
        path = {start: iter(nodes[start].sources)}
        while path:
            current = next(reversed(path))
            written = next(path[current], None)
            if written is None:
                done.add(current)
                del path[current]
            elif written.node in path:
                yield _loop_fault(list(path), written)
            elif written.node in nodes and written.node not in done:
                path[written.node] = iter(nodes[written.node].sources)


def _loop_fault(path: list[str], closing: WrittenSource) -> Fault:
    """Return the fault of a walk `path` whose last node reads `closing`, a node of the path."""
    around = [closing.node, *reversed(path[path.index(closing.node) :])]
    if len(around) > MAX_LOOP_SHOWN:
        around = [*around[: MAX_LOOP_SHOWN - 2], "…", around[-1]]
    what = " -> ".join(f'"{name}"' for name in around) + " is a loop"
    return Fault(closing.place, what, "remove one of these sources", "cycle")
