"""`runtime.testing` with handlers that take batches: a workflow in memory, and one call alone."""

from pathlib import Path
from typing import Any

import pytest

from runtime.errors import ContextError, HandlerLoadError, PredictionError
from runtime.testing import RecordingBatch, RecordingContext, Workflow, call, run_workflow

NODE = "name: tested\nnodes: [{name: double, handler: double.py, batch: {max: 3, wait: 50ms}, retry: {attempts: 1}}]\n"
DOUBLE = """
def handler(ctx, data: list[int]) -> list[int]:
    ctx.measurement.save("call", {"messages": len(data)})
    if 13 in data:
        raise ValueError("poison")
    return [2 * each for each in data]
"""


def write(folder: Path, handler: str = DOUBLE, workflow: str = NODE) -> Path:
    (folder / "workflow.yaml").write_text(workflow)
    (folder / "double.py").write_text(handler)
    return folder


def test_a_request_alone_does_not_wait_in_real_time(tmp_path: Path) -> None:
    with run_workflow(write(tmp_path)) as workflow:
        assert workflow.send(4) == 8
        assert [point.fields["messages"] for point in workflow.points("call")] == [1]


async def test_messages_of_one_moment_are_one_call(tmp_path: Path) -> None:
    async with Workflow(write(tmp_path)) as workflow:
        for number in range(5):
            workflow.post(number)
        await workflow.advance(1)

        assert sorted(workflow.outputs("double")) == [0, 2, 4, 6, 8]
        assert [point.fields["messages"] for point in workflow.points("call")] == [3, 2]


async def test_a_poison_message_fails_alone(tmp_path: Path) -> None:
    async with Workflow(write(tmp_path)) as workflow:
        for number in (1, 2):
            workflow.post(number)
        with pytest.raises(PredictionError, match="poison"):
            await workflow.send(13)

        assert sorted(workflow.outputs("double")) == [2, 4]
        assert len(workflow.dead_letters()) == 1


@pytest.mark.parametrize(
    ("handler", "words"),
    [
        ("def handler(ctx, data: int): ...", r"data is annotated as int; write data: list\[int\]"),
        ("def handler(ctx, data: list[int]): yield 1", "a generator does not say whose message an item belongs to"),
        ("def default_handler(ctx, data): ...", "handlers by sender take one message each"),
    ],
)
def test_a_handler_that_cannot_take_batches_says_what_to_do(tmp_path: Path, handler: str, words: str) -> None:
    folder = write(tmp_path, handler)

    with pytest.raises(HandlerLoadError, match=words), run_workflow(folder):
        pass


async def test_one_call_has_a_recording_context_for_each_message() -> None:
    async def handler(ctx: Any, data: list[int]) -> list[int]:
        for item, each in zip(ctx.items, data, strict=True):
            await item.db.save("seen", {"value": each})
        with pytest.raises(ContextError, match=r"use ctx.items\[i\].db.save"):
            await ctx.db.save("seen", {})
        return [each + 1 for each in data]

    items = [RecordingContext(request_id="a"), RecordingContext(request_id="b")]

    assert await call(handler, RecordingBatch(items), [1, 2]) == [2, 3]
    assert [item.saved["seen"][0]["value"] for item in items] == [1, 2]
