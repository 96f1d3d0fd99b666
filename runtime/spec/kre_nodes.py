"""The nodes of a manifest of KRE -> nodes of a workflow file."""

from collections.abc import Callable
from collections.abc import Mapping as Table

from runtime.spec import kre_keys, names
from runtime.spec.kre_keys import EXITPOINT, Keys
from runtime.spec.report import Fault, Report
from runtime.spec.tree import Mapping, Text, Value, new_mapping, new_text
from runtime.spec.values import Choice, Spot, WholeNumber, expect_text

# Images of KRE's own runners hold this; a node keeps any other.
OWN_IMAGES = "konstellation/kre-"

# Keys of ours with their values.
Parts = dict[str, Value]


class NodeReader:
    """Reads the nodes of one workflow. Everything that is wrong goes into the report."""

    def __init__(self, keys: Keys, report: Report) -> None:
        self._keys = keys
        self._report = report
        # The scopes of the object stores that the nodes have named so far; a scope stands where it was first named.
        self._scopes: dict[str, Text] = {}

    def read(self, written: Value, title: str, *, listed: Text | None = None) -> Mapping:
        """Return a node as a workflow file has it. listed: its name where a workflow of v1 lists it."""
        given = self._keys.read(written, title, self._report)
        parts = {ours: given[key] for key, ours in kre_keys.RENAMED.items() if key in given}
        return self._with_options(written, title, given, parts | ({"name": listed} if listed else {}))

    def read_built_in(self, written: Value, title: str, above: str) -> Mapping:
        """Return KRE's own exitpoint, which passes on what the node `above` sends, and early answers of any node."""
        given = kre_keys.BUILT_IN.read(written, title, self._report)
        given.pop("image", None)
        parts = {ours: given[key] for key, ours in kre_keys.RENAMED.items() if key in given}
        parts["handler"] = new_text(written.place, names.PASS_HANDLER)
        if above:
            parts["env"] = new_mapping(written.place, {names.PASS_FROM: new_text(written.place, above)})
        return self._with_options(written, title, given, parts)

    def object_stores(self) -> Parts:
        """Return the declarations of the object stores that the nodes have named."""
        return {name: new_mapping(scope.place, {"scope": scope}) for name, scope in self._scopes.items()}

    def _with_options(self, written: Value, title: str, given: Table[str, Value], parts: Parts) -> Mapping:
        readers: dict[str, Callable[[Value, Spot], Parts]] = {
            "replicas": self._replicas,
            "gpu": self._gpu,
            "image": self._image,
            "objectStore": self._object_store,
        }
        with self._report.collecting():
            kre_keys.check_length(parts.get("name"))
        for key, read in readers.items():
            if key in given:
                with self._report.collecting():
                    parts |= read(given[key], Spot(key, title))
        return new_mapping(written.place, parts)

    def _replicas(self, value: Value, spot: Spot) -> Parts:
        # KRE's 0 is its default.
        count = WholeNumber(least=0).read(value, spot, self._report) or 1
        return {"replicas": new_text(value.place, str(count))}

    def _gpu(self, value: Value, spot: Spot) -> Parts:
        if Choice(("true", "false")).read(value, spot, self._report) == "false":
            return {}
        return {"resources": new_mapping(value.place, {"gpu": new_text(value.place, "1")})}

    def _image(self, value: Value, spot: Spot) -> Parts:
        own = OWN_IMAGES in expect_text(value, spot, "the name of an image").text
        return {} if own else {"image": value}

    def _object_store(self, value: Value, spot: Spot) -> Parts:
        given = kre_keys.OBJECT_STORE.read(value, str(spot), self._report)
        if "name" not in given:
            return {}
        name = expect_text(given["name"], Spot("name", str(spot)), "a name")
        written = given.get("scope", new_text(name.place, "workflow"))
        scope = Choice(("workflow", "project")).read(written, Spot("scope", str(spot)), self._report)
        first = self._scopes.setdefault(name.text, new_text(name.place, scope))
        if first.text != scope:
            what = f'the object store "{name.text}" has the scope {scope} here, and {first.text} at line'
            remedy = "use one scope, or two names"
            raise Fault(written.place, f"{what} {first.place.line}", remedy, "wrong-value")
        return {"object_store": name}


def is_built_in(node: Value) -> bool:
    """Say whether a node is KRE's own exitpoint, which has no source; with one it is a node like any other."""
    if not isinstance(node, Mapping):
        return False
    name, source = node.get("name"), node.get("src")
    return isinstance(name, Text) and name.text == EXITPOINT and (source is None or kre_keys.is_empty(source))
