"""A node that counts the messages of each state id, what is fed to it, and what has to come out."""

from typing import Any

from runtime.node.state import StateEntry
from runtime.payload import decode_value
from runtime.spec import names
from runtime.spec.node import NodeSpec, StateSpec
from test.support.children import Workbench
from test.support.node import NODE, STREAM, node_spec

BUCKET = names.state_bucket(STREAM, NODE)
IDS = ("ada", "bob", "cem", "dee", "eva")

COUNTER = """
    async def handler(ctx, data: list):
        ctx.state["count"] = ctx.state.get("count", 0) + 1
        return [[*data, ctx.state["count"]]]
"""


def stateful(**changes: Any) -> NodeSpec:
    return node_spec(**{"partitions": 4, "state": StateSpec(bucket=BUCKET), "concurrency": 4, **changes})


def messages(per_id: int) -> list[list[Any]]:
    """Return what is fed: each id with the numbers from 1, the ids mixed."""
    return [[state_id, number] for number in range(1, per_id + 1) for state_id in IDS]


def id_of(value: list[Any]) -> str:
    return str(value[0])


def by_id(seen: list[Any]) -> dict[str, list[tuple[int, int]]]:
    """Return for each id its numbers and the counts that they got, in the order of the stream; ERRORs are empty."""
    results = [each for each in seen if each is not None]
    return {state_id: [(number, count) for each, number, count in results if each == state_id] for state_id in IDS}


def expected(per_id: int) -> dict[str, list[tuple[int, int]]]:
    return {state_id: [(number, number) for number in range(1, per_id + 1)] for state_id in IDS}


async def counts(bench: Workbench) -> dict[str, int]:
    """Return the count that is kept for each id."""
    bucket = await bench.bus.key_value(BUCKET)
    entries = [StateEntry.decode((await bucket.get(key)).value) for key in await bucket.keys()]
    return {entry.state_id: decode_value(entry.payload)["count"] for entry in entries}
