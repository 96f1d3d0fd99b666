"""A manifest of KRE (`krt.yml`) -> the workflow file that it stands for, as a tree whose values keep their places.

    krt.yml ─▶ kre_keys.py: keys and KRE's rules ─▶ here: one workflow as a workflow file has it ─▶ load.py

What `load.py` checks of every workflow file (names, wiring, loops, handlers) is left to it; its problems point into
the manifest. `krt convert` writes the same tree, so that the file and the manifest cannot differ.
"""

from collections.abc import Iterator, Sequence
from collections.abc import Mapping as Table

from runtime.spec import kre_keys, names
from runtime.spec.fields import NODE, node_title
from runtime.spec.kre_keys import EXITPOINT, V1, V2, Version
from runtime.spec.report import Fault, Place, Report, did_you_mean, listed
from runtime.spec.tree import Entry, Items, Mapping, Text, Value
from runtime.spec.values import NOT_YET, Choice, Spot, WholeNumber, expect_text

# Names of the file in a version's folder.
FILE_NAMES = ("krt.yml", "krt.yaml")
# Keys by which a manifest is told from a workflow file.
OWN_KEYS = ("workflows", "krtVersion")
# KRE's own runners begin so; a node keeps any other image.
OWN_IMAGES = "konstellation/kre-"
# What KRE does: one message at a time, no second attempt, no limit.
DEFAULTS = {"concurrency": "1", "timeout": "none"}
ATTEMPTS = "1"
# Codes after which a part of the workflow is unknown: what is said about the rest would mislead.
GAPS = {"missing-key", "wrong-type"}


def is_manifest(root: Mapping) -> bool:
    """Say whether a file is a manifest of KRE, by its keys."""
    return any(entry.key.text in OWN_KEYS for entry in root.entries)


def workflow_names(root: Mapping) -> tuple[str, ...]:
    """Return the names of a manifest's workflows, as far as they can be read."""
    found = (item.get("name") for item in _workflows(root) if isinstance(item, Mapping))
    return tuple(name.text for name in found if isinstance(name, Text) and name.text)


def workflow_file(root: Mapping, only: str, report: Report) -> Mapping | None:
    """Return the tree of the workflow file that a manifest stands for; None where a part of it is missing.

    only: name of the workflow; "" for the only one. Problems of other workflows are left out.
    Raises Fault where the manifest does not say which workflow is meant.
    """
    translated = _Manifest(root, report).workflow(_picked(root, only))
    gaps = any(problem.code in GAPS for problem in report.errors)
    return None if gaps else translated


def _workflows(root: Mapping) -> tuple[Value, ...]:
    workflows = root.get("workflows")
    return workflows.items if isinstance(workflows, Items) else ()


def _picked(root: Mapping, only: str) -> Value | None:
    """Return the workflow that is meant, None in a manifest without any, which is reported elsewhere."""
    workflows, known = _workflows(root), workflow_names(root)
    if only:
        for item in workflows:
            name = item.get("name") if isinstance(item, Mapping) else None
            if isinstance(name, Text) and name.text == only:
                return item
        what = f'the manifest has no workflow "{only}"'
        raise Fault(root.place, what, did_you_mean(only, known), "which-workflow")
    if len(workflows) > 1:
        what = f"the manifest has {len(workflows)} workflows"
        raise Fault(workflows[0].place, what, f"pick one with --workflow: {listed(known)}", "which-workflow")
    return workflows[0] if workflows else None


def _version(root: Mapping, report: Report) -> Version:
    """Return the version that the manifest states; without a word the place of the nodes tells it."""
    stated = root.get("krtVersion")
    if stated is not None and not kre_keys.is_empty(stated):
        with report.collecting():
            return {"v1": V1, "v2": V2}[Choice(("v1", "v2")).read(stated, Spot("krtVersion", "the manifest"), report)]
    inside = any(isinstance(item, Mapping) and item.get("nodes") is not None for item in _workflows(root))
    return V2 if inside else V1


class _Manifest:
    """Translates one workflow of a manifest; everything wrong goes into the report."""

    def __init__(self, root: Mapping, report: Report) -> None:
        self._report = report
        self._version = _version(root, report)
        self._place = root.place
        self._given = self._version.manifest.read(root, "the manifest", report)
        # Object stores of the nodes read so far, by name: their scopes.
        self._stores: dict[str, Text] = {}

    def workflow(self, written: Value | None) -> Mapping | None:
        """Return the tree of the workflow file, as far as it can be read."""
        self._check_length(self._given.get("version"))
        self._warn_of_entrypoint()
        defaults = self._defaults()
        if written is None:
            self._report_empty()
            return None
        given = self._version.workflow.read(written, "the workflow", self._report)
        self._check_length(given.get("name"))
        nodes = tuple(self._nodes_v1(given) if self._version is V1 else self._nodes_v2(given))
        if not nodes:  # and why has been reported
            return None
        parts = {
            "name": given.get("name"),
            "version": self._given.get("version"),
            "description": self._given.get("description"),
            "defaults": defaults,
            "objects": self._objects(),
            "nodes": _items(written.place, nodes),
            "output": given.get("exitpoint"),
        }
        return _mapping(written.place, parts)

    def _report_empty(self) -> None:
        if (workflows := self._given.get("workflows")) is not None:
            with self._report.collecting():
                kre_keys.expect_items(workflows, Spot("workflows", "the manifest"), "a list of workflows")

    # --- what all nodes share ---

    def _defaults(self) -> Mapping:
        texts = {key: _text(self._place, value) for key, value in DEFAULTS.items()}
        retry = _mapping(self._place, {"attempts": _text(self._place, ATTEMPTS)})
        return _mapping(self._place, {**texts, "retry": retry, "secrets": self._variables()})

    def _variables(self) -> Items | None:
        """Return what has to be set when a node starts: the variables, and those that hold a file's path."""
        written = self._given.get("config")
        if written is None:
            return None
        config = kre_keys.CONFIG.read(written, '"config" of the manifest', self._report)
        found: dict[str, Text] = {}
        for key, value in config.items():
            spot = Spot(key, '"config"')
            with self._report.collecting():
                for name in kre_keys.expect_texts(value, spot, "a list of names of variables", self._report):
                    with self._report.collecting():
                        kre_keys.check_variable_name(name, spot)
                        found.setdefault(name.text, name)
        return _items(written.place, tuple(found.values())) if found else None

    def _warn_of_entrypoint(self) -> None:
        """Check the entrypoint, and say that it is left out: a driver of class `grpc` once there are drivers."""
        written = self._given.get("entrypoint")
        if written is None:
            return
        entrypoint = kre_keys.ENTRYPOINT.read(written, "the entrypoint", self._report)
        if "proto" not in entrypoint:
            return
        with self._report.collecting():
            proto = expect_text(entrypoint["proto"], Spot("proto", "the entrypoint"), "the path of a .proto file")
            if not proto.text.endswith(".proto"):
                remedy = "name a .proto file: public_input.proto"
                raise Fault(proto.place, f'"proto" of the entrypoint is {proto}', remedy, "wrong-value")
            what = f"the entrypoint of {proto.text} would become a gRPC driver, {NOT_YET}"
            fault = Fault(proto.place, what, "it is left out: send requests with `krt send`", "not-yet")
            self._report.add(fault, warning=True)

    # --- nodes ---

    def _nodes_v1(self, workflow: Table[str, Value]) -> Iterator[Mapping]:
        """Yield the nodes that the workflow lists; without `from`, each reads the one before it."""
        declared = self._declared()
        with self._report.collecting():
            sequence = workflow.get("sequential")
            listed_names = () if sequence is None else kre_keys.expect_texts(
                sequence, Spot("sequential", "the workflow"), "a list of nodes", self._report
            )  # fmt: skip
            for name in listed_names:
                if name.text in declared:
                    yield self._node(*declared[name.text], name_at=name)
                else:
                    what = f'"sequential" names "{name.text}", which "nodes" does not declare'
                    self._report.add(Fault(name.place, what, did_you_mean(name.text, declared), "unknown-source"))

    def _declared(self) -> dict[str, tuple[Value, str]]:
        """Return the nodes of a manifest of v1 with their titles, by name."""
        declared: dict[str, tuple[Value, str]] = {}
        for title, node in self._titled(self._given.get("nodes"), Spot("nodes", "the manifest")):
            name = node.get("name") if isinstance(node, Mapping) else None
            if not isinstance(name, Text):
                # Nothing can list it; its own problems are all that there is to say.
                self._version.node.read(node, title, self._report)
            elif name.text in declared:
                what = f"{title} is declared twice, first at line {declared[name.text][0].place.line}"
                self._report.add(Fault(name.place, what, "rename one", "duplicate-name"))
            else:
                declared[name.text] = (node, title)
        return declared

    def _nodes_v2(self, workflow: Table[str, Value]) -> Iterator[Mapping]:
        """Yield the nodes that the workflow holds."""
        above: Text | None = None
        for title, node in self._titled(workflow.get("nodes"), Spot("nodes", "the workflow")):
            name = node.get("name") if isinstance(node, Mapping) else None
            if _is_built_in(node):
                yield self._built_in(node, title, above)
            else:
                yield self._node(node, title)
            above = name if isinstance(name, Text) else above

    def _titled(self, written: Value | None, spot: Spot) -> Iterator[tuple[str, Value]]:
        with self._report.collecting():
            nodes: Sequence[Value] = ()
            if written is not None:
                nodes = kre_keys.expect_items(written, spot, "a list of nodes")
            for number, node in enumerate(nodes, start=1):
                yield node_title(node, number), node

    def _node(self, written: Value, title: str, name_at: Text | None = None) -> Mapping:
        """name_at: where a workflow of v1 lists the node, which is the place of its wiring."""
        given = self._version.node.read(written, title, self._report)
        parts = {"name": name_at or given.get("name"), "handler": given.get("src"), "from": given.get("subscriptions")}
        return self._with_options(written.place, title, given, parts)

    def _built_in(self, written: Value, title: str, above: Text | None) -> Mapping:
        """Return KRE's own exitpoint: early answers of all that it reads, everything else of the node above."""
        given = kre_keys.BUILT_IN.read(written, title, self._report)
        place = written.place
        environment = {names.PASS_FROM: _text(place, above.text)} if above else {}
        parts = {
            "name": given.get("name"),
            "handler": _text(place, names.PASS_HANDLER),
            "from": given.get("subscriptions"),
            "env": _mapping(place, environment) if environment else None,
        }
        given.pop("image", None)
        return self._with_options(place, title, given, parts)

    def _with_options(
        self, place: Place, title: str, given: Table[str, Value], parts: Table[str, Value | None]
    ) -> Mapping:
        self._check_length(parts.get("name"))
        options = {
            "replicas": self._replicas(given.get("replicas"), title),
            "resources": self._resources(given.get("gpu"), title),
            "image": self._image(given.get("image"), title),
            "object_store": self._object_store(given.get("objectStore"), title),
        }
        return _mapping(place, {**parts, **options})

    # --- keys of a node ---

    def _replicas(self, written: Value | None, title: str) -> Value | None:
        """Return the number of replicas; KRE's 0 is its default, 1."""
        if written is None:
            return None
        with self._report.collecting():
            count = WholeNumber(least=0).read(written, Spot("replicas", title), self._report)
            return written if count else _text(written.place, "1")
        return None

    def _resources(self, written: Value | None, title: str) -> Value | None:
        if written is None:
            return None
        with self._report.collecting():
            if Choice(("true", "false")).read(written, Spot("gpu", title), self._report) == "true":
                resources = _mapping(written.place, {"gpu": _text(written.place, "1")})
                return self._unless_planned("resources", resources, f'"gpu" of {title}')
        return None

    def _image(self, written: Value | None, title: str) -> Value | None:
        if written is None:
            return None
        with self._report.collecting():
            image = expect_text(written, Spot("image", title), "the name of an image")
            if OWN_IMAGES not in image.text:
                return self._unless_planned("image", image, f"the image {image.text} of {title}")
        return None

    def _unless_planned(self, key: str, value: Value, what: str) -> Value | None:
        """Return the value of a key that works; one that is only planned is left out, so that the workflow runs."""
        if key not in NODE.planned:
            return value
        fault = Fault(value.place, f"{what} has no effect: it {NODE.planned[key]}, {NOT_YET}", "remove it", "not-yet")
        self._report.add(fault, warning=True)
        return None

    def _object_store(self, written: Value | None, title: str) -> Value | None:
        if written is None:
            return None
        given = kre_keys.OBJECT_STORE.read(written, f'"objectStore" of {title}', self._report)
        with self._report.collecting():
            if "name" not in given:
                return None
            name = expect_text(given["name"], Spot("name", f'"objectStore" of {title}'), "a name")
            scope = given.get("scope", _text(name.place, "workflow"))
            chosen = Choice(("workflow", "project")).read(
                scope, Spot("scope", f'"objectStore" of {title}'), self._report
            )
            first = self._stores.setdefault(name.text, _text(name.place, chosen))
            if first.text != chosen:
                what = f'the object store "{name.text}" has the scope {chosen} here, and {first.text} at line'
                remedy = "use one scope, or two names"
                raise Fault(scope.place, f"{what} {first.place.line}", remedy, "wrong-value")
            return name
        return None

    def _objects(self) -> Mapping | None:
        if not self._stores:
            return None
        place = next(iter(self._stores.values())).place
        stores = {name: _mapping(scope.place, {"scope": scope}) for name, scope in self._stores.items()}
        return _mapping(place, stores)

    def _check_length(self, name: Value | None) -> None:
        if name is not None:
            with self._report.collecting():
                kre_keys.check_length(name)


def _is_built_in(node: Value) -> bool:
    """Say whether a node is KRE's own exitpoint, which has no source; with one it is a node like any other."""
    if not isinstance(node, Mapping):
        return False
    name, source = node.get("name"), node.get("src")
    return isinstance(name, Text) and name.text == EXITPOINT and (source is None or kre_keys.is_empty(source))


# --- building the tree ---


def _text(place: Place, text: str) -> Text:
    return Text(place=place, text=text)


def _items(place: Place, values: tuple[Value, ...]) -> Items:
    return Items(place=place, items=values, size=1 + sum(value.size for value in values))


def _mapping(place: Place, parts: Table[str, Value | None]) -> Mapping:
    """Return a mapping of the parts that are there. A key stands where its value does."""
    entries = tuple(
        Entry(key=_text(value.place, key), value=value) for key, value in parts.items() if value is not None
    )
    return Mapping(place=place, entries=entries, size=1 + sum(entry.key.size + entry.value.size for entry in entries))
