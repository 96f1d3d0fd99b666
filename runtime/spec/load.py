"""A workflow file -> `Workflow`, or every problem of the file at once.

| call | gives |
|---|---|
| `load("flows/hello")` | the workflow of `flows/hello/workflow.yaml` |
| `load("flows/hello/other.yaml")` | the workflow of that file |
| `load("flows/classify", workflow="train")` | the workflow `train` of a manifest of KRE, `krt.yml` |
| `load(path, check_handlers=True)` | the same, once the handlers' files exist |
| `load_report(path)` | what there is of it, with errors and warnings |
"""

import os
import posixpath
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

from runtime import errors
from runtime.spec import kre, names
from runtime.spec.algorithms import RunnerDraft, check_adapters
from runtime.spec.batch import batch_spec
from runtime.spec.drivers import DriverDraft, check_drivers
from runtime.spec.fields import NODE, NODE_KINDS, SINK_NODE, WORKFLOW, node_title
from runtime.spec.fuse import WrittenChain, check_chains
from runtime.spec.kinds import check_kinds, dispatch_spec, models_spec
from runtime.spec.model import MAX_DEDUP_WINDOW_S, Join, Node, Source, Stream, Workflow
from runtime.spec.node import RetryPolicy
from runtime.spec.objects import choose_object_stores
from runtime.spec.order import check_order, warn_of_order
from runtime.spec.record import Record
from runtime.spec.replicas import replica_values
from runtime.spec.report import START, Fault, Place, Report, nearest
from runtime.spec.resources import ProcessResources
from runtime.spec.secret_names import secret_values
from runtime.spec.sources import WrittenJoin, WrittenSource
from runtime.spec.tree import MAX_SIZE, Entry, Mapping, Text, Value, parse, too_large
from runtime.spec.values import Spot
from runtime.spec.wiring import NodeDraft, check_output, wire
from runtime.spec.workers import worker_count

# Name of the file in a workflow's folder.
FILE_NAME = "workflow.yaml"
# Keys that name a function of the user's, as file.py:function.
FUNCTION_KEYS = {"arguments", "aggregate"}
# Folders that are searched for a near name when a handler's file does not exist.
MAX_FOLDERS_SEARCHED = 100


@dataclass(frozen=True, slots=True, kw_only=True)
class Loaded:
    """What was read of a file. `workflow` is None where it has errors.

    drafts, drivers, output: they know their places, also in a file with errors. document: the content of the workflow
    file, also of one that a manifest of KRE stands for.
    """

    path: Path
    report: Report
    document: Mapping | None = None
    drafts: tuple[NodeDraft, ...] = ()
    drivers: tuple[DriverDraft, ...] = ()
    output: WrittenSource | None = None
    workflow: Workflow | None = None


def load(path: Path | str, *, workflow: str = "", check_handlers: bool = False) -> Workflow:
    """Return the workflow of a file, or of a folder's `workflow.yaml`, else of its `krt.yml`.

    workflow: its name, where a manifest of KRE has several. check_handlers: every handler's file has to exist.
    Raises WorkflowError with every problem of the file.
    """
    loaded = load_report(path, workflow=workflow, check_handlers=check_handlers)
    if loaded.workflow is None:
        raise errors.WorkflowError(loaded.report.errors)
    return loaded.workflow


def load_report(path: Path | str, *, workflow: str = "", check_handlers: bool = False) -> Loaded:
    """Read a workflow file as far as its faults allow; raises nothing for a fault of the file."""
    file = file_of(Path(path))
    report = Report(str(file))
    with report.collecting():
        root = parse(_read(file), report)
        document = None if root is None else _document(_expect_mapping(root), workflow, report)
        if document is not None:
            return _Loader(file, report, check_handlers).load(document)
    return Loaded(path=file, report=report)


def file_of(path: Path) -> Path:
    """Return the file itself, or a folder's: its `workflow.yaml`, else its `krt.yml`."""
    if not path.is_dir():
        return path
    found = (path / name for name in (FILE_NAME, *kre.FILE_NAMES) if (path / name).is_file())
    return next(found, path / FILE_NAME)


def workflow_names(path: Path | str) -> tuple[str, ...]:
    """Return the names of the workflows of a manifest of KRE; none for any other file, or one that cannot be read."""
    report = Report("")
    with report.collecting():
        root = parse(_read(file_of(Path(path))), report)
        return kre.workflow_names(root) if isinstance(root, Mapping) else ()
    return ()


def _read(file: Path) -> bytes:
    try:
        with file.open("rb") as opened:
            return opened.read(MAX_SIZE + 1)
    except (OSError, ValueError) as err:
        reason = err.strerror if isinstance(err, OSError) else str(err)
        remedy = f"name a workflow file, or a folder with a {FILE_NAME} or {kre.FILE_NAMES[0]}"
        raise Fault(START, f"the file cannot be read: {reason}", remedy, "unreadable") from err


def _expect_mapping(root: Value) -> Mapping:
    if not isinstance(root, Mapping):
        what = f"the file holds {root if not isinstance(root, Text) else 'a text'}"
        raise Fault(root.place, what, 'write a mapping with "name" and "nodes"', "wrong-type")
    return root


def _document(root: Mapping, workflow: str, report: Report) -> Mapping | None:
    """Return the workflow file that was read, or that a manifest of KRE stands for; `workflow` is the one to pick."""
    if kre.is_manifest(root):
        return kre.workflow_file(root, workflow, report)
    name = root.get("name")
    if workflow and isinstance(name, Text) and name.text != workflow:
        what = f'the workflow of the file is "{name.text}", not "{workflow}"'
        raise Fault(name.place, what, "only a manifest of KRE has several to pick from", "which-workflow")
    return root


class Code(NamedTuple):
    """A file of the user's that a node names. content: what it has to hold. owner: how problems name the node.

    suffix: of its name.
    """

    key: str
    content: str
    owner: str
    place: Place
    suffix: str = ".py"


class _Loader:
    """Reads one file: its keys by the tables, then its nodes with the defaults under them, then the wiring."""

    def __init__(self, file: Path, report: Report, check_handlers: bool) -> None:
        self._file = file
        self._report = report
        self._check_handlers = check_handlers

    def load(self, root: Mapping) -> Loaded:
        values = WORKFLOW.read(root, Spot("", ""), self._report)
        nodes: Sequence[Mapping] = values.pop("nodes", ())
        defaults: Mapping | None = values.pop("defaults", None)
        drivers: tuple[DriverDraft, ...] = values.pop("drivers", ())
        runners: tuple[RunnerDraft, ...] = values.pop("algorithms", ())
        chains: tuple[WrittenChain, ...] = values.pop("fuse", ())
        _check_merged_size(root, nodes, defaults)
        drafts = tuple(self._draft(with_defaults(node, defaults), n) for n, node in enumerate(nodes, start=1))
        wire(drafts, _driver_names(root), self._report)
        choose_object_stores(drafts, values.get("objects", {}), self._report)
        check_order(drafts, self._report)
        check_kinds(drafts, self._report)
        check_chains(chains, drafts, self._report)
        check_drivers(drivers, drafts, self._report)
        if self._check_handlers:
            check_adapters(runners, self._file.parent, self._report)
        written: WrittenSource | None = values.pop("output", None)
        output = written or _last([draft for draft in drafts if not draft.is_sink] or drafts)
        if written is not None and drafts:
            check_output(written, drafts, self._report)
        values["drivers"] = tuple(draft.driver for draft in drivers)
        values["algorithms"] = tuple(draft.runner for draft in runners)
        values["fuse"] = tuple(tuple(name.text for name in chain) for chain in chains)
        workflow = None if self._report.errors else self._workflow(values, drafts, output)
        if workflow is not None:
            warn_of_order(drafts, workflow, self._report)
            _warn_of_long_retries(drafts, workflow, self._report)
        return Loaded(
            path=self._file,
            report=self._report,
            document=root,
            drafts=drafts,
            drivers=drivers,
            output=output,
            workflow=workflow,
        )

    def _draft(self, node: Mapping, number: int) -> NodeDraft:
        title = node_title(node, number)
        name, record = node.get("name"), _record_of(node)
        values = record.read(node, Spot("", title), self._report)
        if record is SINK_NODE:
            values["kind"] = "sink"
        draft = NodeDraft(
            name=name.text if isinstance(name, Text) else "",
            title=title,
            place=name.place if name else node.place,
            values=values,
            handler="",
            handler_place=node.place,
            sources=_sources(values),
        )
        if record is NODE_KINDS["handler"]:
            with self._report.collecting():
                self._find_handler(draft, node)
        for key in FUNCTION_KEYS & values.keys():
            with self._report.collecting():
                self._find_function(draft, key)
        for side in draft.values.get("schemas", ()):
            with self._report.collecting():
                self._find_schema(draft, side)
        return draft

    def _find_handler(self, draft: NodeDraft, node: Mapping) -> None:
        written: Text | None = draft.values.get("handler")
        if written is None and (node.get("handler") is not None or not names.is_name(draft.name)):
            return
        draft.handler_place = written.place if written else draft.place
        text = written.text if written else f"{draft.name}/handler.py"
        if text == names.PASS_HANDLER:
            draft.handler = text
            return
        draft.handler = self._find_file(Code("handler", "handler(ctx, data)", draft.title, draft.handler_place), text)

    def _find_function(self, draft: NodeDraft, key: str) -> None:
        written: Text = draft.values[key]
        path, _, function = written.text.rpartition(":")
        found = self._find_file(Code(key, f"function {function}", draft.title, written.place), path)
        draft.values[key] = replace(written, text=f"{found}:{function}")

    def _find_schema(self, draft: NodeDraft, side: str) -> None:
        written: Text = draft.values["schemas"][side]
        code = Code(f"schemas.{side}", "JSON Schema", draft.title, written.place, ".json")
        draft.values["schemas"][side] = self._find_file(code, written.text)

    def _find_file(self, code: "Code", text: str) -> str:
        """Return the path of a file of the user's in its plainest form. Raises Fault for one that cannot be it."""
        path = posixpath.normpath(text)
        if posixpath.isabs(path) or path.split("/")[0] == "..":
            what = f"{code.key} {text} of {code.owner} lies outside the folder of the file"
            raise Fault(code.place, what, "put it into the folder, or below", "outside-folder")
        if not path.endswith(code.suffix):
            raise _wrong_file(code, text)
        if self._check_handlers:
            self._check_file(path, code)
        return path

    def _check_file(self, path: str, code: "Code") -> None:
        folder = self._file.parent
        if not Path(os.path.realpath(folder / path)).is_relative_to(os.path.realpath(folder)):
            what = f"{code.key} {path} of {code.owner} is a link that leads out of the folder of the file"
            raise Fault(code.place, what, "put the file itself there", "outside-folder")
        # os.path.isfile answers False where Path.is_file raises: a name that is too long.
        if os.path.isfile(folder / path):
            return
        near = nearest(path, _files(folder, code.suffix))
        remedy = f'did you mean "{near}"?' if near else f"create it with a {code.content}"
        raise Fault(code.place, f"{code.key} {path} does not exist", remedy, "missing-file")

    def _workflow(self, values: dict[str, Any], drafts: Sequence[NodeDraft], output: WrittenSource) -> Workflow:
        known = {key: value for key, value in values.items() if key not in {"krt", "stream"}}
        return Workflow(
            **known,
            nodes=tuple(_node(draft) for draft in drafts),
            output=Source(node=output.node, channel=output.channel),
            stream=Stream(**values.get("stream", {})),
            folder=self._file.parent,
            path=self._file,
        )


def _sources(values: dict[str, Any]) -> tuple[WrittenSource, ...]:
    """Return what a node says that it reads: any of its sources, or all parts of a join."""
    if "join" in values:
        return tuple(part.source for part in values["join"].parts)
    return tuple(values.get("sources", ()))


def _node(draft: NodeDraft) -> Node:
    values = {**secret_values(replica_values(draft.values)), "handler": draft.handler, "sources": draft.resolved}
    values["when"] = {str(source): source.when for source in draft.sources if source.when}
    values["workers"] = worker_count(values)
    if draft.values.get("kind") == "models":
        values |= {"models": models_spec(values), "concurrency": 1}
    if draft.values.get("kind") == "dispatch":
        values["dispatch"] = dispatch_spec(values)
    if draft.values.get("kind") == "batch":
        values |= _batch_values(values)
    if "join" in values:
        written: WrittenJoin = values["join"]
        values["join"] = Join(parts=tuple(part.name for part in written.parts), **written.values)
    return Node(**{**values, "retry": RetryPolicy(**values.get("retry", {}))})


def _batch_values(values: dict[str, Any]) -> dict[str, Any]:
    """Return what a node of kind batch has in place of what is the model's."""
    batch = batch_spec(values)
    token = (batch.callback.token_env,) if batch.callback.token_env else ()
    return {
        "batch": batch,
        # A run has a limit of its own; asking, storing and telling come on top.
        "timeout_s": None,
        "concurrency": values.get("concurrency", 1),
        # A command is a child of the process and has its GPUs; a container gets its own from the engine.
        "resources": ProcessResources(gpu=batch.resources.gpu if batch.backend == "command" else 0),
        "secrets": tuple(dict.fromkeys((*values["secrets"], *token))),
    }


def _record_of(node: Mapping) -> Record:
    """Return the table of a node's keys; that of all kinds together where it does not say a kind that there is."""
    return SINK_NODE if node.get("sink") is not None else NODE_KINDS.get(kind_of(node), NODE)


def kind_of(node: Mapping) -> str:
    """Return the kind that a node says it is; "" where that is no text."""
    kind = node.get("kind")
    if kind is None:
        return "handler"
    return kind.text if isinstance(kind, Text) else ""


def with_defaults(node: Mapping, defaults: Mapping | None) -> Mapping:
    """Return the node with the defaults under it: its own keys win, mappings are merged key by key.

    Defaults that its kind does not know are left out.
    """
    if defaults is None:
        return node
    elsewhere = _record_of(node).elsewhere
    entries = [_merged(entry, defaults.get(entry.key.text)) for entry in node.entries]
    entries += [
        entry for entry in defaults.entries if node.get(entry.key.text) is None and entry.key.text not in elsewhere
    ]
    return Mapping(place=node.place, entries=tuple(entries), size=node.size)


def _merged(own: Entry, default: Value | None) -> Entry:
    if not isinstance(own.value, Mapping) or not isinstance(default, Mapping):
        return own
    given = {entry.key.text for entry in own.value.entries}
    added = tuple(entry for entry in default.entries if entry.key.text not in given)
    value = Mapping(place=own.value.place, entries=own.value.entries + added, size=own.value.size)
    return Entry(key=own.key, value=value)


def _check_merged_size(root: Mapping, nodes: Sequence[Mapping], defaults: Mapping | None) -> None:
    if defaults is not None and root.size + len(nodes) * defaults.size > MAX_SIZE:
        raise too_large(defaults.place)


def _driver_names(root: Mapping) -> list[str]:
    drivers = root.get("drivers")
    return [entry.key.text for entry in drivers.entries] if isinstance(drivers, Mapping) else []


def _last(drafts: Sequence[NodeDraft]) -> WrittenSource:
    return WrittenSource(drafts[-1].name, "", drafts[-1].place) if drafts else WrittenSource("", "", START)


def _warn_of_long_retries(drafts: Sequence[NodeDraft], workflow: Workflow, report: Report) -> None:
    for draft, node in zip(drafts, workflow.nodes, strict=True):
        if node.timeout_s is not None and node.redelivery_span_s > MAX_DEDUP_WINDOW_S:
            what = f"{draft.title} may retry for longer than the dedup window of {MAX_DEDUP_WINDOW_S / 60:g} minutes"
            remedy = 'lower "attempts" or "timeout", or expect that a late attempt publishes again'
            report.add(Fault(draft.place, what, remedy, "long-retry"), warning=True)


def _wrong_file(code: Code, text: str) -> Fault:
    what = f"{code.key} {text[:80]} of {code.owner} is no "
    if code.suffix == ".json":
        return Fault(code.place, f"{what}JSON file", "name a .json file", "wrong-value")
    return Fault(code.place, f"{what}Python file", "name a .py file: no other language runs here", "not-python")


def _files(folder: Path, suffix: str) -> list[str]:
    """Return the paths of such files below a folder, without hidden ones, as far as it searches."""
    found: list[str] = []
    for parent, folders, files in islice(os.walk(folder), MAX_FOLDERS_SEARCHED):
        folders[:] = sorted(name for name in folders if not name.startswith((".", "__")))
        relative = Path(parent).relative_to(folder)
        found += [(relative / name).as_posix() for name in sorted(files) if name.endswith(suffix)]
    return found
