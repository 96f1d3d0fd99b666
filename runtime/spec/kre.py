"""A manifest of KRE (`krt.yml`) -> the workflow file that it stands for, as a tree whose values keep their places.

    krt.yml ─▶ kre_keys.py: keys and KRE's rules ─▶ here and kre_nodes.py: one workflow ─▶ load.py

What `load.py` checks of every workflow file (names, wiring, loops, handlers) is left to it; its problems point into
the manifest. `krt convert` writes the same tree, so that the file and the manifest cannot differ.
"""

from collections.abc import Iterator
from collections.abc import Mapping as Table

from runtime.spec import kre_keys
from runtime.spec.fields import node_title
from runtime.spec.kre_keys import V1, V2, Version
from runtime.spec.kre_nodes import NodeReader, Parts, is_built_in
from runtime.spec.report import Fault, Report, did_you_mean, listed
from runtime.spec.tree import Items, Mapping, Text, Value, new_items, new_mapping, new_text
from runtime.spec.values import Choice, Spot, expect_text

# Names of the file in a version's folder.
FILE_NAMES = ("krt.yml", "krt.yaml")
# Keys by which a manifest is told from a workflow file.
OWN_KEYS = ("workflows", "krtVersion")
# The driver that an entrypoint becomes, and where KRE's own serves which service.
DRIVER = "grpc"
KRE_SERVICE = "Entrypoint"
KRE_PORT = 9000
# Codes after which a part of the workflow is unknown: what would be said about the rest might mislead.
GAPS = {"missing-key", "wrong-type"}


def is_manifest(root: Mapping) -> bool:
    """Say whether a file is a manifest of KRE, by its keys."""
    return any(entry.key.text in OWN_KEYS for entry in root.entries)


def workflow_names(root: Mapping) -> tuple[str, ...]:
    """Return the names of a manifest's workflows, as far as they can be read."""
    return tuple(name for name in map(_name_of, _workflows(root)) if name)


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


def _name_of(value: Value) -> str:
    """Return the name of a workflow or a node, "" where there is none."""
    name = value.get("name") if isinstance(value, Mapping) else None
    return name.text if isinstance(name, Text) else ""


def _picked(root: Mapping, only: str) -> Value | None:
    """Return the workflow that is meant, None in a manifest without any, which is reported elsewhere."""
    workflows, known = _workflows(root), workflow_names(root)
    if only:
        for workflow in workflows:
            if _name_of(workflow) == only:
                return workflow
        raise Fault(root.place, f'the manifest has no workflow "{only}"', did_you_mean(only, known), "which-workflow")
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
    """Translates one workflow of a manifest; everything that is wrong goes into the report."""

    def __init__(self, root: Mapping, report: Report) -> None:
        self._report = report
        self._version = _version(root, report)
        self._place = root.place
        self._given = self._version.manifest.read(root, "the manifest", report)
        self._nodes = NodeReader(self._version.node, report)

    def workflow(self, written: Value | None) -> Mapping | None:
        """Return the tree of the workflow file; None where there is no node to make it of."""
        self._check_length(self._given.get("version"))
        proto = self._proto()
        defaults = self._defaults()
        if written is None:
            self._items(self._given, "workflows", "the manifest")
            return None
        given = self._version.workflow.read(written, "the workflow", self._report)
        self._check_length(given.get("name"))
        nodes = list(self._nodes_v1(given) if self._version is V1 else self._nodes_v2(given))
        parts = {"name": given.get("name"), "version": self._given.get("version")}
        parts |= {"description": self._given.get("description"), "defaults": defaults}
        if stores := self._nodes.object_stores():
            parts["objects"] = new_mapping(written.place, stores)
        parts |= {"nodes": new_items(written.place, nodes), "output": given.get("exitpoint")}
        if proto is not None and (drivers := self._drivers(proto, given)):
            parts["drivers"] = new_mapping(proto.place, drivers)
        known = {key: value for key, value in parts.items() if value is not None}
        return new_mapping(written.place, known) if nodes else None

    # --- what all nodes share ---

    def _defaults(self) -> Mapping:
        """Return what KRE does without a word: one message at a time, no second attempt, no limit."""
        parts: Parts = {
            "concurrency": new_text(self._place, "1"),
            "timeout": new_text(self._place, "none"),
            "retry": new_mapping(self._place, {"attempts": new_text(self._place, "1")}),
        }
        if names := list(self._variables()):
            parts["secrets"] = new_items(names[0].place, names)
        return new_mapping(self._place, parts)

    def _variables(self) -> Iterator[Text]:
        """Yield the variables that have to be set when a node starts; those of files hold their paths."""
        if "config" not in self._given:
            return
        config = kre_keys.CONFIG.read(self._given["config"], '"config" of the manifest', self._report)
        seen = set()
        for key in config:
            spot = Spot(key, '"config"')
            for value in self._items(config, key, '"config"', "a list of names of variables"):
                with self._report.collecting():
                    name = expect_text(value, spot, "the name of a variable")
                    kre_keys.check_variable_name(name, spot)
                    if name.text not in seen:
                        yield name
                    seen.add(name.text)

    # --- entrypoint ---

    def _proto(self) -> Text | None:
        """Return the path of the .proto file that the manifest is served by; None, and a problem, where it is wrong."""
        if "entrypoint" not in self._given:
            return None
        entrypoint = kre_keys.ENTRYPOINT.read(self._given["entrypoint"], "the entrypoint", self._report)
        if "proto" not in entrypoint:
            return None
        with self._report.collecting():
            proto = expect_text(entrypoint["proto"], Spot("proto", "the entrypoint"), "the path of a .proto file")
            if not proto.text.endswith(".proto"):
                remedy = "name a .proto file: public_input.proto"
                raise Fault(proto.place, f'"proto" of the entrypoint is {proto}', remedy, "wrong-value")
            return proto
        return None

    def _drivers(self, proto: Text, workflow: Table[str, Value]) -> Parts:
        """Return the gRPC driver in which the method of KRE's service belongs to the workflow; none without a method.

        The other methods belong to the other workflows of the manifest, which run by themselves.
        """
        with self._report.collecting():
            if "entrypoint" not in workflow or "name" not in workflow:
                return {}
            method = expect_text(workflow["entrypoint"], Spot("entrypoint", "the workflow"), "the name of a method")
            services = new_mapping(
                method.place, {KRE_SERVICE: new_mapping(method.place, {method.text: workflow["name"]})}
            )
            driver: Parts = {
                "class": new_text(proto.place, "grpc"),
                "ports": new_mapping(proto.place, {"grpc": new_text(proto.place, str(KRE_PORT))}),
                "proto": proto,
                "services": services,
            }
            return {DRIVER: new_mapping(proto.place, driver)}
        return {}

    # --- nodes ---

    def _nodes_v1(self, workflow: Table[str, Value]) -> Iterator[Mapping]:
        """Yield the nodes that the workflow lists; without `from`, each reads the one before it."""
        declared = self._declared()
        for value in self._items(workflow, "sequential", "the workflow", "a list of nodes"):
            with self._report.collecting():
                name = expect_text(value, Spot("sequential", "the workflow"), "the name of a node")
                if name.text not in declared:
                    what = f'"sequential" names "{name.text}", which "nodes" does not declare'
                    raise Fault(name.place, what, did_you_mean(name.text, declared), "unknown-source")
                node, title = declared[name.text]
                yield self._nodes.read(node, title, listed=name)

    def _declared(self) -> dict[str, tuple[Value, str]]:
        """Return the nodes of a manifest of v1 with their titles, by name."""
        declared: dict[str, tuple[Value, str]] = {}
        for number, node in enumerate(self._items(self._given, "nodes", "the manifest"), start=1):
            name, title = _name_of(node), node_title(node, number)
            if not name:
                # Nothing can list it; its own problems are all that there is to say.
                self._nodes.read(node, title)
            elif name in declared:
                what = f"{title} is declared twice, first at line {declared[name][0].place.line}"
                self._report.add(Fault(node.place, what, "rename one", "duplicate-name"))
            else:
                declared[name] = (node, title)
        return declared

    def _nodes_v2(self, workflow: Table[str, Value]) -> Iterator[Mapping]:
        """Yield the nodes that the workflow holds."""
        above = ""
        for number, node in enumerate(self._items(workflow, "nodes", "the workflow"), start=1):
            title = node_title(node, number)
            yield self._nodes.read_built_in(node, title, above) if is_built_in(node) else self._nodes.read(node, title)
            above = _name_of(node) or above

    # --- what they share ---

    def _items(self, given: Table[str, Value], key: str, owner: str, expected: str = "") -> tuple[Value, ...]:
        """Return the items of a key; none, and a problem, where its value is no list or an empty one."""
        with self._report.collecting():
            if key in given:
                return kre_keys.expect_items(given[key], Spot(key, owner), expected or f"a list of {key}")
        return ()

    def _check_length(self, name: Value | None) -> None:
        with self._report.collecting():
            kre_keys.check_length(name)
