"""`krt repro` calls a handler as its node does."""

from pathlib import Path
from typing import Any

import pytest

from runtime import wire
from runtime.cli.repro import _call, _Input
from runtime.deadletter import DeadLetter
from runtime.errors import BatchResultError
from runtime.message import Message
from runtime.node.modules import HandlerModules
from runtime.payload import encode_value
from runtime.spec.load import load

NOBODY: Any = object()


async def reproduced(folder: Path, handler: str, value: Any, died: DeadLetter = NOBODY) -> list[Any]:
    """Return the outputs of a node with `batch` for one message."""
    (folder / "workflow.yaml").write_text("name: tested\nnodes: [{name: work, handler: work.py, batch: {max: 8}}]\n")
    (folder / "work.py").write_text(handler)
    data = wire.encode(Message(request_id="r", payload=encode_value(value), from_node="entrypoint"))
    workflow = load(folder)
    modules = HandlerModules(folder)
    try:
        given = _Input(died=died, data=data, config={}, state=b"")
        outputs, _ = await _call(workflow.node("work"), modules.load("work.py"), given, folder)
    finally:
        modules.close()
    return outputs


async def test_a_handler_for_batches_gets_a_list_with_the_one_message(tmp_path: Path) -> None:
    handler = "def handler(ctx, data: list[int]) -> list[int]:\n    return [each + len(ctx.items) for each in data]\n"

    assert await reproduced(tmp_path, handler, 4) == [5]


async def test_a_wrong_number_of_results_fails_as_it_does_in_the_node(tmp_path: Path) -> None:
    with pytest.raises(BatchResultError, match="got 1 messages and returned 0 results"):
        await reproduced(tmp_path, "def handler(ctx, data: list[int]): return []\n", 4)
