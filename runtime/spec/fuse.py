"""The key `fuse`: chains of nodes that run in one process. Checked on drafts, so that it also runs on a faulty file."""

from collections.abc import Mapping as Table
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from runtime.spec.model import Source
from runtime.spec.report import Fault, Report, did_you_mean
from runtime.spec.tree import Items, Text, Value
from runtime.spec.values import JsonSchema, Name, Spot, expect_text, wrong_type
from runtime.spec.wiring import NodeDraft

# The nodes of a chain as the file names them.
WrittenChain = tuple[Text, ...]

# Values of a node, as its draft names them, that a fused one may have; any other is about a consumer of its own, or a
# process of its own.
FUSABLE = {
    "name", "kind", "description", "handler", "sources", "replicas", "concurrency", "timeout_s", "retry",
    "dead_letter_keep_s", "object_store", "env", "config", "secrets", "resources", "image",
}  # fmt: skip
# Others that ask for nothing, though they are written.
_NEUTRAL = {"isolation": "thread", "workers": 1}
# Keys of the file that drafts know by another name.
_KEYS = {"batching": "batch"}


@dataclass(frozen=True, slots=True)
class Chains:
    """A chain `[clean, score]`, or a list of chains."""

    def read(self, value: Value, spot: Spot, report: Report) -> tuple[WrittenChain, ...]:
        if not isinstance(value, Items) or not value.items:
            raise wrong_type(value, spot, "a chain of nodes, or a list of chains: [clean, score]")
        written = value.items if isinstance(value.items[0], Items) else (value,)
        found: list[WrittenChain] = []
        for chain in written:
            with report.collecting():
                found.append(_read_chain(chain, spot))
        return tuple(found)

    def schema(self) -> JsonSchema:
        chain = {"type": "array", "items": Name().schema(), "minItems": 2}
        return {"anyOf": [chain, {"type": "array", "items": chain, "minItems": 1}]}


def _read_chain(chain: Value, spot: Spot) -> WrittenChain:
    if not isinstance(chain, Items):
        raise wrong_type(chain, spot, "a chain of nodes: [clean, score]")
    nodes = tuple(expect_text(item, spot, "the name of a node") for item in chain.items)
    if len(nodes) < 2:
        what = f"a chain of {spot} has {len(nodes)} node{'s' * (len(nodes) != 1)}"
        raise Fault(chain.place, what, "name two or more", "out-of-range")
    return nodes


def check_chains(chains: Sequence[WrittenChain], drafts: Sequence[NodeDraft], report: Report) -> None:
    """Report nodes that cannot share a process, or that are not wired as their chain says."""
    nodes = {draft.name: draft for draft in drafts}
    seen: set[str] = set()
    for chain in chains:
        for name in chain:
            with report.collecting():
                _check_node(name, nodes, seen)
        known = [(name, nodes[name.text]) for name in chain if name.text in nodes]
        for (_, before), (name, behind) in pairwise(known):
            with report.collecting():
                _check_pair(name, before, behind)


def _check_node(name: Text, nodes: Table[str, NodeDraft], seen: set[str]) -> None:
    node = nodes.get(name.text)
    if node is None:
        what = f'"fuse" names "{name.text}", which no node provides'
        raise Fault(name.place, what, did_you_mean(name.text, nodes), "unknown-source")
    if name.text in seen:
        raise _refused(name, f"{node.title} is fused twice", "name it once")
    seen.add(name.text)
    kind = node.values.get("kind", "handler")
    if kind != "handler":
        raise _refused(name, f"{node.title} is of kind {kind}", "only nodes with a handler can be fused")
    others = sorted(
        key for key, value in node.values.items() if key not in FUSABLE and value and _NEUTRAL.get(key) != value
    )
    if others:
        keys = " and ".join(f'"{_KEYS.get(key, key)}"' for key in others)
        raise _refused(name, f"{node.title} has {keys}, which needs a process of its own", "take it out of the chain")


def _check_pair(name: Text, before: NodeDraft, behind: NodeDraft) -> None:
    """Raise a fault at `name`, the node behind, where the two cannot share a process."""
    if behind.resolved != (Source(node=before.name),):
        read = " and ".join(f'"{source}"' for source in behind.resolved) or "nothing"
        what = f'{behind.title} is fused behind "{before.name}", but reads {read}'
        raise _refused(name, what, f"let it read {before.name} alone, or take it out of the chain")
    for key, default in (("replicas", 1), ("resources", None), ("image", "")):
        if before.values.get(key, default) != behind.values.get(key, default):
            what = f'"{before.name}" and "{behind.name}" are fused, but differ in "{key}"'
            raise _refused(name, what, "give both the same: they are one process")
    if differing := _differing_variables(before.values, behind.values):
        what = f'"{before.name}" and "{behind.name}" are fused, but give {differing[0]} two values in "env"'
        raise _refused(name, what, "give both the same: they are one process")


def _differing_variables(before: Table[str, Any], behind: Table[str, Any]) -> list[str]:
    one, other = before.get("env", {}), behind.get("env", {})
    return sorted(name for name in one.keys() & other.keys() if one[name] != other[name])


def _refused(at: Text, what: str, remedy: str) -> Fault:
    return Fault(at.place, what, remedy, "not-fusable")
