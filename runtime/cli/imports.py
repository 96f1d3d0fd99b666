"""The part of `krt check` that looks into the handlers: do they import, do they fit, do the edges between them.

Each handler is imported by a child process (`cli/probe.py`). What the children find becomes problems at the places of
the workflow file.
"""

import os
import subprocess
import sys
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from pydantic import ValidationError

from runtime.cli.probe import Finding, Wanted
from runtime.spec.edges import EdgeType, HandlerTypes, compare, item_type, part_type
from runtime.spec.join import JoinSpec
from runtime.spec.kind_types import KIND_TYPES, sink_types
from runtime.spec.load import Loaded
from runtime.spec.model import State
from runtime.spec.node import AGGREGATE, ARGUMENTS
from runtime.spec.report import Fault, Place, did_you_mean
from runtime.spec.sources import WrittenJoin, WrittenSource
from runtime.spec.tree import Text
from runtime.spec.wiring import NodeDraft

# Seconds that one handler may take to import: models are loaded in `init`, which is not called here.
IMPORT_TIMEOUT_S = 60.0
# Handlers that are imported at once.
MAX_CHILDREN = 4

UNKNOWN = EdgeType(kind="unknown")


def check_handlers(loaded: Loaded) -> dict[str, HandlerTypes]:
    """Import the handlers of a workflow and add what is wrong with them, and with the edges, to its report.

    Returns what each node reads and sends, by its name; a node whose handler does not import is left out.
    """
    codes = [code for draft in loaded.drafts for code in _codes(draft)]
    folder = loaded.path.parent.absolute()
    with ThreadPoolExecutor(min(MAX_CHILDREN, os.cpu_count() or 1)) as pool:
        findings = list(pool.map(lambda code: _probe(folder, code), codes))
    known: dict[str, HandlerTypes] = {}
    for code, finding in zip(codes, findings, strict=True):
        if finding.fault:
            loaded.report.add(_fault(code, finding, folder))
        elif finding.types is not None:
            known[code.draft.name] = finding.types
    _Edges(loaded, known).check()
    return {**_types_of_kinds(loaded), **known}


@dataclass(frozen=True, slots=True, kw_only=True)
class _Code:
    """Code of a node: a file, its place in the workflow file, and what the node asks of it."""

    draft: NodeDraft
    file: str
    place: Place
    wanted: Wanted


def _codes(draft: NodeDraft) -> Iterator[_Code]:
    """Yield the node's handler, or its functions."""
    if draft.handler:
        yield _Code(draft=draft, file=draft.handler, place=draft.handler_place, wanted=_wanted(draft))
    for key, arguments in (("arguments", ARGUMENTS), ("aggregate", AGGREGATE)):
        written: Text | None = draft.values.get(key)
        if written is not None:
            file, _, name = written.text.rpartition(":")
            yield _Code(draft=draft, file=file, place=written.place, wanted=Wanted(function=f"{name}{arguments}"))


def _probe(folder: Path, code: _Code) -> Finding:
    try:
        child = subprocess.run(
            [sys.executable, "-m", "runtime.cli.probe", str(folder), code.file, code.wanted.model_dump_json()],
            env=_environment(code.draft),
            capture_output=True,
            timeout=IMPORT_TIMEOUT_S,
            check=False,
        )
    except subprocess.TimeoutExpired:
        fault = f"Error loading handler script {folder / code.file}: not done after {IMPORT_TIMEOUT_S:g} s"
        return Finding(fault=f"{fault}; move what takes so long into init(ctx)")
    try:
        return Finding.model_validate_json(child.stdout)
    except ValidationError:
        words = child.stderr.decode(errors="replace").strip().splitlines()
        fault = f"Error loading handler script {folder / code.file}: it ended the process ({child.returncode})"
        return Finding(fault=f"{fault}: {words[-1]}" if words else fault)


def _wanted(draft: NodeDraft) -> Wanted:
    state: State | None = draft.values.get("state")
    written: WrittenJoin | None = draft.values.get("join")
    join: JoinSpec | None = None
    if written is not None:
        parts = {str(part.source): part.name for part in written.parts}
        partial = written.values.get("on_timeout") == "partial"
        join = JoinSpec(bucket="", parts=parts, key="", timeout_s=0, partial=partial)
    return Wanted(state=state.type if state else None, join=join, batched="batching" in draft.values)


def _environment(draft: NodeDraft) -> dict[str, str]:
    """Return the variables of the child: the node's own, and a path on which it finds this package."""
    own: Mapping[str, str] = draft.values.get("env", {})
    root = str(Path(__file__).parents[2])
    path = os.pathsep.join(part for part in (root, os.environ.get("PYTHONPATH", "")) if part)
    return {**os.environ, "PYTHONPATH": path, **own}


def _fault(code: _Code, finding: Finding, folder: Path) -> Fault:
    """Return the fault with the first line of the child's words; the paths in it become relative."""
    words = finding.fault.splitlines()[0].replace(f"{folder}{os.sep}", "")
    what, found, remedy = words.rpartition("; ")
    if not found:
        what, remedy = words, "correct it, or install what it imports"
    return Fault(code.place, what, remedy, finding.code)


class _Edges:
    """Compares what handlers declare along the wiring."""

    def __init__(self, loaded: Loaded, known: Mapping[str, HandlerTypes]) -> None:
        self._loaded = loaded
        self._known = known
        self._of_kinds = _types_of_kinds(loaded)
        self._handlers = {draft.name: draft.handler for draft in loaded.drafts}
        self._read = {(source.node, source.channel) for draft in loaded.drafts for source in draft.sources}
        if loaded.output is not None:
            self._read.add((loaded.output.node, loaded.output.channel))

    def check(self) -> None:
        report = self._loaded.report
        for draft in self._loaded.drafts:
            for written in draft.sources:
                with report.collecting():
                    self._check_channel(f'{draft.title} reads "{written}"', written)
                    self._check_edge(draft, written)
            if unread := self._unread(draft):
                what = f"nobody reads {' and '.join(unread)}"
                fault = Fault(draft.place, what, "let a node read it, or take it out of the handler", "unread")
                report.add(fault, warning=True)
        if self._loaded.output is not None:
            with report.collecting():
                self._check_channel(f'the output is "{self._loaded.output}"', self._loaded.output)

    def _check_channel(self, reading: str, written: WrittenSource) -> None:
        producer = self._known.get(written.node)
        if not written.channel or producer is None or producer.channels is None:
            return
        if written.channel in producer.channels:
            return
        handler = self._handlers[written.node]
        declared = ", ".join(producer.channels) or "none"
        what = f"{reading}, but {handler} declares {declared}"
        sources = [f"{written.node}.{channel}" for channel in producer.channels]
        raise Fault(written.place, what, did_you_mean(str(written), sources), "unknown-channel")

    def _check_edge(self, draft: NodeDraft, written: WrittenSource) -> None:
        both = {**self._of_kinds, **self._known}
        consumer, producer = both.get(draft.name), both.get(written.node)
        if consumer is None or producer is None:
            return
        sent, read = _sent(producer, written.channel), _read(consumer, draft, written)
        sent_at, read_at = self._place(written.node, producer), self._place(draft.name, consumer)
        verdict = compare(sent, read, sent_at, read_at)
        if verdict.mismatch:
            types = f"{sent.described()} is sent and {read.described()} is read"
            what = f'"{draft.name}" cannot read what "{written}" sends: {types}; {verdict.mismatch}'
            raise Fault(written.place, what, _remedy(draft, sent, read), "edge-type")
        # What a kind leaves open, nobody can annotate.
        if not verdict.checked and self._of_kinds.keys().isdisjoint((draft.name, written.node)):
            what = f'whether "{draft.name}" can read what "{written}" sends is not known'
            remedy = f"annotate the result ({sent_at}) and the second argument ({read_at}) with types that say more"
            self._loaded.report.add(Fault(written.place, what, remedy, "unchecked-edge"), warning=True)

    def _place(self, node: str, types: HandlerTypes) -> str:
        """Return where a node's types are declared."""
        return f"{self._handlers[node]}:{types.line}" if self._handlers[node] else f'node "{node}"'

    def _unread(self, draft: NodeDraft) -> list[str]:
        """Return what a handler declares to send while nobody reads it."""
        types = self._known.get(draft.name)
        if types is None:
            return []
        returns = types.output is not None and types.output.kind != "unknown"
        sent = {f'the results of "{draft.name}"': ""} if returns else {}
        sent |= {f'"{draft.name}.{channel}"': channel for channel in types.channels or {}}
        return [shown for shown, channel in sent.items() if (draft.name, channel) not in self._read]


def _remedy(draft: NodeDraft, sent: EdgeType, read: EdgeType) -> str:
    """Say how to put an edge right: a list of what is sent may have been meant as a batch."""
    item = item_type(read)
    if "batching" not in draft.values and item is not None and not compare(sent, item).mismatch:
        return f'write batch: true, if "{draft.name}" takes lists of messages, else change one'
    return f'change one, or convert in "{draft.name}"'


def _types_of_kinds(loaded: Loaded) -> dict[str, HandlerTypes]:
    """Return what the nodes without a handler read and send, as far as their kinds say it."""
    kinds = {draft.name: draft.values.get("kind", "") for draft in loaded.drafts}
    sinks = {draft.name: draft.values.get("sink") for draft in loaded.drafts}
    return {
        **{name: KIND_TYPES[kind] for name, kind in kinds.items() if kind in KIND_TYPES},
        **{name: sink_types(sink) for name, sink in sinks.items() if sink is not None},
    }


def _read(consumer: HandlerTypes, draft: NodeDraft, written: WrittenSource) -> EdgeType:
    join: WrittenJoin | None = draft.values.get("join")
    whole = consumer.input_from(written.node)
    if join is None:
        return whole
    return next((part_type(whole, part.name) for part in join.parts if part.source is written), UNKNOWN)


def _sent(producer: HandlerTypes, channel: str) -> EdgeType:
    if channel:
        return (producer.channels or {}).get(channel, UNKNOWN)
    # A handler that returns nothing may still send through its context.
    return producer.output or UNKNOWN
