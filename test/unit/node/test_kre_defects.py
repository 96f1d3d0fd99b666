"""What KRE's runner does wrong, where no test of a single part shows that ours does not. The list is docs/kre.md."""

import gc
from typing import Any

import pytest

from runtime import wire
from runtime.message import Message
from test.unit.node.conftest import StartNode

# Messages that are handled while somebody counts.
MESSAGES = 20


@pytest.mark.parametrize("bare", [False, True])
async def test_no_message_collects_garbage_or_asks_about_its_stream(
    start_node: StartNode, monkeypatch: pytest.MonkeyPatch, bare: bool
) -> None:
    node = await start_node(
        """
        async def handler(ctx, data):
            await ctx.db.save("things", {"n": 1})
            return "saved"
        """,
        bare=bare,
    )
    await node.run_writer()
    calls: list[str] = []

    def count(owner: Any, name: str) -> None:
        function = getattr(owner, name)

        def counted(*arguments: Any, **options: Any) -> Any:
            calls.append(name)
            return function(*arguments, **options)

        monkeypatch.setattr(owner, name, counted)

    count(gc, "collect")
    for name in ("stream_state", "consumer_states", "stream_placement", "get_message"):
        count(node.bus, name)
    for _ in range(MESSAGES):
        await node.send({"a": 1})
    await node.settled()

    assert node.outputs() == ["saved"] * MESSAGES
    assert calls == []


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"\x1f\x8bnonsense", "gzip"),
        (wire.compress(wire.encode(Message(request_id="r")))[:-12], "gzip"),
        (b"\xff\xff", "protobuf"),
        (b"\x0a\x01t\x2a\x02no", "wire"),
    ],
    ids=["no gzip", "gzip cut off", "no protobuf", "the first wire version"],
)
async def test_bytes_that_cannot_be_read_end_at_once_as_a_dead_letter(
    start_node: StartNode, data: bytes, reason: str
) -> None:
    node = await start_node("async def handler(ctx, data): return data", bare=True)

    await node.send_bytes(data)
    await node.settled()

    ((stored, letter),) = node.dead_letters()
    assert (stored.data, letter.reason) == (data, reason)
    assert node.state.redelivered == 0
    assert node.stored() == []


async def test_handlers_share_no_context_and_no_default(start_node: StartNode) -> None:
    node = await start_node(
        """
        contexts = []
        async def handler(ctx, data):
            seen = [getattr(ctx, "mine", None), ctx.request_id]
            ctx.mine = ctx.request_id
            ctx.measurement.save("m", {"a": 1})
            contexts.append(ctx)
            return [seen]
        """,
        bare=True,
    )

    for request_id in ("r1", "r2"):
        await node.send(request_id=request_id)
    await node.settled()

    assert node.outputs() == [[None, "r1"], [None, "r2"]]
    assert node.module.contexts[0] is not node.module.contexts[1]
    assert node.module.contexts[0].request_id == "r1"
