"""`ctx.object_store`: what handlers keep there, the texts of its errors, and a start without the store."""

import logging
from pathlib import Path
from typing import Any

import pytest

from runtime.bus.object_store import ObjectStoreConfig
from runtime.errors import NotFoundError
from test.support.node import NodeUnderTest

STORE = "prod_v1_greeter_pages"
STORE_BYTES = 300_000


async def evaluate(folder: Path, body: str) -> Any:
    """Run statements in the handler of a node with an object store; return `result`, or `Class: text` of an error."""
    lines = "\n".join(f"        {line}" for line in body.splitlines())
    node = NodeUnderTest(
        folder,
        f"""
async def chunks(*pieces):
    for piece in pieces:
        if isinstance(piece, Exception):
            raise piece
        yield piece

async def handler(ctx, data):
    objects, result = ctx.object_store, None
    try:
{lines}
    except Exception as error:
        result = f"{{type(error).__name__}}: {{error}}"
    return [str(result)]
""",
        variables={"NATS_OBJECT_STORE": STORE},
    )
    await node.outside.ensure_object_store(ObjectStoreConfig(name=STORE, max_bytes=STORE_BYTES))
    await node.start()
    await node.send()
    await node.settled()
    await node.stop()
    return node.outputs()[0]


@pytest.mark.parametrize(
    ("statements", "expected"),
    [
        ("await objects.save('a', b'1')\nresult = await objects.get('a')", "b'1'"),
        ("await objects.save('a', bytearray(b'1'))\nresult = await objects.get('a')", "b'1'"),
        ("await objects.save('a', b'1')\nawait objects.save('a', b'2')\nresult = await objects.get('a')", "b'2'"),
        ("await objects.save_stream('a', chunks(b'1', b'2'))\nresult = await objects.get('a')", "b'12'"),
        ("await objects.save_stream('a', chunks())\nresult = await objects.get('a')", "b''"),
        (
            "await objects.save('a', b'x' * 200_000)\nresult = [len(chunk) async for chunk in objects.get_stream('a')]",
            "[131072, 68928]",
        ),
        (
            "await objects.save('a', b'1')\n"
            "await objects.save_stream('b', objects.get_stream('a'))\n"
            "result = await objects.list()",
            "['a', 'b']",
        ),
        ("await objects.save('a', b'1')\nawait objects.delete('a')\nresult = await objects.list()", "[]"),
        (
            "for key in ('page/1', 'page/2', 'note'): await objects.save(key, b'1')\n"
            "result = await objects.list('/.$')",
            "['page/1', 'page/2']",
        ),
    ],
)
async def test_a_handler_keeps_objects(tmp_path: Path, statements: str, expected: str) -> None:
    assert await evaluate(tmp_path, statements) == expected


@pytest.mark.parametrize(
    ("statement", "expected"),
    [
        ("await objects.save('a', b'')", "ContextError: the payload cannot be empty"),
        ("await objects.save('a', 'text')", "TypeError: [ctx.object_store.save] 'payload' must be bytes, it is str"),
        (
            "await objects.save('', b'1')",
            "BusError: error storing object with key  to the object store: "
            "an object's name has 1 to 1024 bytes, '' has 0",
        ),
        (
            "await objects.save('a', b'1' * 300_001)",
            "StreamFullError: error storing object with key a to the object store: "
            "object store prod_v1_greeter_pages is full; delete objects, or raise its max_bytes",
        ),
        ("await objects.save_stream('a', chunks(b'1', ValueError('gone')))", "ValueError: gone"),
        (
            "await objects.get('a')",
            "NotFoundError: error retrieving object with key a from the object store: "
            "object store prod_v1_greeter_pages has no object 'a'",
        ),
        (
            "await anext(objects.get_stream('a'))",
            "NotFoundError: error retrieving object with key a from the object store: "
            "object store prod_v1_greeter_pages has no object 'a'",
        ),
        (
            "await objects.delete('a')",
            "NotFoundError: error deleting object with key a from the object store: "
            "object store prod_v1_greeter_pages has no object 'a'",
        ),
    ],
)
async def test_a_mistake_has_a_text(tmp_path: Path, statement: str, expected: str) -> None:
    assert await evaluate(tmp_path, statement) == expected


@pytest.mark.parametrize(
    "call", ["save('a', b'1')", "save_stream('a', None)", "get('a')", "delete('a')", "list()", "get_stream('a')"]
)
async def test_every_member_tells_that_no_store_is_configured(tmp_path: Path, call: str) -> None:
    awaited = f"anext(ctx.object_store.{call})" if call.startswith("get_stream") else f"ctx.object_store.{call}"
    node = NodeUnderTest(
        tmp_path,
        f"""
        async def handler(ctx, data):
            try:
                await {awaited}
            except Exception as error:
                return [f"{{type(error).__name__}}: {{error}}"]
        """,
    )
    await node.start()

    await node.send()
    await node.settled()

    assert node.outputs() == ["ContextError: no object store configured: set KRT_NATS_OBJECT_STORE"]
    await node.stop()


async def test_the_store_is_there_in_init_and_in_a_plain_def(tmp_path: Path) -> None:
    node = NodeUnderTest(
        tmp_path,
        """
        def init(ctx):
            ctx.run(ctx.object_store.save("model", b"weights"))

        def handler(ctx, data):
            return ctx.run(ctx.object_store.get("model")).decode()
        """,
        variables={"NATS_OBJECT_STORE": STORE},
    )
    await node.outside.ensure_object_store(ObjectStoreConfig(name=STORE))
    await node.start()

    await node.send()
    await node.settled()

    assert node.outputs() == ["weights"]
    await node.stop()


async def test_a_start_that_finds_no_object_store_names_it(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    node = NodeUnderTest(
        tmp_path, "async def handler(ctx, data): ...", variables={"NATS_OBJECT_STORE": "nobody-made-it"}
    )

    with pytest.raises(NotFoundError, match="there is no object store nobody-made-it"):
        await node.start()
    await node.stop()

    assert [record for record in caplog.records if record.levelno >= logging.ERROR] == []
