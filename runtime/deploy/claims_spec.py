"""How payloads that are larger than a message are kept, as managers and senders are told. Pure.

A node lets go of a payload only when what it has made of it is stored. So that a full store becomes empty again, each
sender leaves room for all those behind it: callers fill half of the store, the last nodes all of it.
"""

from runtime.spec.claims import ClaimsSpec, claims_store, letter_claims_store
from runtime.spec.manager import ObjectStoreSpec
from runtime.spec.model import Node, Workflow

# Part of the store that requests may fill.
REQUESTS_SHARE = 0.5


def claims_of_requests(workflow: Workflow, stream: str) -> ClaimsSpec:
    """Return what senders of requests are told."""
    return ClaimsSpec(store=claims_store(stream), room_bytes=round(workflow.stream.max_bytes * REQUESTS_SHARE))


def claims_of_node(workflow: Workflow, node: Node, stream: str) -> ClaimsSpec:
    """Return what a node is told."""
    depths = _depths(workflow)
    share = REQUESTS_SHARE + (1 - REQUESTS_SHARE) * depths[node.name] / max(depths.values())
    return ClaimsSpec(store=claims_store(stream), room_bytes=round(workflow.stream.max_bytes * share))


def claim_stores(workflow: Workflow, stream: str, letters_keep_s: float | None) -> tuple[ObjectStoreSpec, ...]:
    """Return the stores of a workflow. letters_keep_s: how long dead letters are kept, None where none is."""
    # The manager removes what is done, and no age: a message may wait for any time.
    own = ObjectStoreSpec(name=claims_store(stream), keep_s=0.0, max_bytes=workflow.stream.max_bytes)
    if letters_keep_s is None:
        return (own,)
    return own, ObjectStoreSpec(name=letter_claims_store(stream), keep_s=letters_keep_s, max_bytes=0)


def _depths(workflow: Workflow) -> dict[str, int]:
    """Return for each node how many nodes a message has passed behind it at most, itself included."""
    depths: dict[str, int] = {}

    def depth(name: str) -> int:
        if name not in depths:
            nodes = [node for node in workflow.nodes if node.name == name]  # none for the entrypoint
            depths[name] = 1 + max((depth(source.node) for source in nodes[0].sources), default=0) if nodes else 0
        return depths[name]

    for node in workflow.nodes:
        depth(node.name)
    return depths
