"""The keys of KRE's manifest, as its two versions have them, and KRE's own rules for single values.

KRE reads a key without a value as absent, and passes over keys that it does not know.
"""

import re
from dataclasses import dataclass

from runtime.spec.report import Fault, Report, did_you_mean
from runtime.spec.tree import Items, Mapping, Text, Value
from runtime.spec.values import Spot, check_variable, wrong_type

# Characters of a name that KRE takes: its rule is "lower than 20".
MAX_NAME_LENGTH = 19
# The node that KRE adds by itself; its name alone may be longer.
EXITPOINT = "konstellation-exitpoint"
# A variable by KRE's rule; that it begins with a letter is ours, for no shell takes any other.
VARIABLE = re.compile(r"[A-Z]([_A-Z0-9]*[A-Z0-9])?")
# What YAML reads as no value.
EMPTY = ("", "~", "null", "Null", "NULL")


@dataclass(frozen=True, slots=True, kw_only=True)
class Keys:
    """The keys of one mapping. foreign: those that only `other`, the other version of the manifest, has there."""

    required: tuple[str, ...]
    optional: tuple[str, ...] = ()
    foreign: tuple[str, ...] = ()
    other: str = ""

    def read(self, value: Value, title: str, report: Report) -> dict[str, Value]:
        """Return the values that are given, by key. Everything that is wrong with the keys goes into the report."""
        if not isinstance(value, Mapping):
            report.add(wrong_type(value, Spot("", title), "a mapping"))
            return {}
        known = (*self.required, *self.optional)
        given: dict[str, Value] = {}
        for entry in value.entries:
            if entry.key.text not in known:
                self._report_key(entry.key, title, report)
            elif not is_empty(entry.value):
                given[entry.key.text] = entry.value
        if missing := [f'"{key}"' for key in self.required if key not in given]:
            remedy = "add one" if len(missing) == 1 else "add them"
            report.add(Fault(value.place, f"{title} has no {' and no '.join(missing)}", remedy, "missing-key"))
        return given

    def _report_key(self, key: Text, title: str, report: Report) -> None:
        if key.text in self.foreign:
            what = f'{title} has "{key.text}", which only a manifest of krtVersion {self.other} has there'
            report.add(Fault(key.place, what, f'remove it, or write "krtVersion: {self.other}"', "wrong-version"))
        else:
            what = f'{title} has the key "{key.text[:80]}", which KRE does not know and passes over'
            remedy = did_you_mean(key.text, (*self.required, *self.optional))
            report.add(Fault(key.place, what, remedy, "unknown-key"), warning=True)


@dataclass(frozen=True, slots=True)
class Version:
    """The keys of one version of the manifest."""

    manifest: Keys
    workflow: Keys
    node: Keys


_MANIFEST = ("version", "description", "entrypoint", "workflows")
_OF_MANIFEST = ("krtVersion", "config")
_OF_NODE = ("gpu", "replicas", "objectStore")

# Nodes are declared once, and every workflow lists some of them in their order.
V1 = Version(
    Keys(required=(*_MANIFEST, "nodes"), optional=_OF_MANIFEST),
    Keys(required=("name", "entrypoint", "sequential"), foreign=("nodes", "exitpoint"), other="v2"),
    Keys(required=("name", "image", "src"), optional=_OF_NODE, foreign=("subscriptions",), other="v2"),
)
# Every workflow holds its nodes, and they name what they read.
V2 = Version(
    Keys(required=_MANIFEST, optional=_OF_MANIFEST, foreign=("nodes",), other="v1"),
    Keys(required=("name", "entrypoint", "exitpoint", "nodes"), foreign=("sequential",), other="v1"),
    Keys(required=("name", "image", "src", "subscriptions"), optional=_OF_NODE),
)
# KRE's own node, which brings its code and its image.
BUILT_IN = Keys(required=("name", "subscriptions"), optional=("image", *_OF_NODE))

# Keys of a node whose values only change their name: KRE's, ours.
RENAMED = {"name": "name", "src": "handler", "subscriptions": "from"}

ENTRYPOINT = Keys(required=("proto", "image"))
CONFIG = Keys(required=(), optional=("variables", "files"))
OBJECT_STORE = Keys(required=("name",), optional=("scope",))


def is_empty(value: Value) -> bool:
    """Say whether a key has no value."""
    return isinstance(value, Text) and value.plain and value.text in EMPTY


def expect_items(value: Value, spot: Spot, expected: str) -> tuple[Value, ...]:
    """Return the items of a list that has some. Raises Fault."""
    if not isinstance(value, Items):
        raise wrong_type(value, spot, expected)
    if not value.items:
        raise Fault(value.place, f"{spot} is an empty list", f"give {expected}", "missing-key")
    return value.items


def check_length(name: Value | None) -> None:
    """Raise a fault for a name that is longer than KRE takes; the other rules for names are ours as well."""
    if isinstance(name, Text) and len(name.text) > MAX_NAME_LENGTH and name.text != EXITPOINT:
        what = f'"{name.text[:80]}" has {len(name.text)} characters, and KRE takes {MAX_NAME_LENGTH} in a name'
        raise Fault(name.place, what, "shorten it", "bad-name")


def check_variable_name(name: Text, spot: Spot) -> None:
    """Raise a fault unless both KRE and this runtime take the name of a variable."""
    if not VARIABLE.fullmatch(name.text):
        raise Fault(name.place, f"{spot} names {name}", "use A-Z, 0-9 and _: API_URL", "bad-name")
    check_variable(name, spot)
