"""How often a large payload is copied between the message that a node reads and the one that it sends."""

import tracemalloc

import numpy as np
import pytest

from runtime import wire
from runtime.message import Message
from runtime.payload import decode_value, encode_value
from test.unit.node.conftest import StartNode

ARRAY = np.arange(125_000, dtype=np.float64)
PASS_ON = """
    import numpy as np
    import numpy.typing as npt

    async def handler(ctx, data: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
        return data
"""


@pytest.mark.parametrize("reply_to", ["", "caller"])
async def test_a_node_copies_an_array_of_1_mb_twice(start_node: StartNode, reply_to: str) -> None:
    node = await start_node(PASS_ON)
    request = Message(request_id="r", payload=encode_value(ARRAY), from_node="entrypoint", reply_to=reply_to)
    arrived = wire.encode(request)
    await node.send_bytes(arrived)  # what is imported and cached with the first message does not count
    await node.until(lambda: len(node.stored()) == 1)

    tracemalloc.start()
    before, _ = tracemalloc.get_traced_memory()
    await node.send_bytes(arrived)
    await node.until(lambda: len(node.stored()) == 2)
    peak_bytes = tracemalloc.get_traced_memory()[1] - before
    tracemalloc.stop()

    assert decode_value(wire.decode(node.stored()[1].data).payload).tobytes() == ARRAY.tobytes()
    assert 1.9 * ARRAY.nbytes < peak_bytes < 2.1 * ARRAY.nbytes
