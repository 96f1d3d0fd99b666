"""A workflow in memory for plain tests: the members of `Workflow`, none of them to be awaited."""

import asyncio
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from runtime.deadletter import DeadLetter
from runtime.stores.base import Document, Point
from runtime.testing.workflow import Workflow


@contextmanager
def run_workflow(
    path: Path | str, *, workflow: str = "", environment: Mapping[str, str] | None = None
) -> Iterator["SyncWorkflow"]:
    """Run the workflow of a folder or file in memory for a `with` block. Arguments and errors: see `Workflow`."""
    opened = Workflow(path, workflow=workflow, environment=environment)
    with asyncio.Runner() as runner:
        runner.run(opened.__aenter__())
        try:
            yield SyncWorkflow(opened, runner)
        finally:
            runner.run(opened.__aexit__())


class SyncWorkflow:
    """See `Workflow`: every member does the same. Between two calls the workflow stands still."""

    def __init__(self, workflow: Workflow, runner: asyncio.Runner) -> None:
        self._workflow = workflow
        self._runner = runner

    def send(self, inputs: Any, *, state_id: str = "", headers: Mapping[str, str] | None = None) -> Any:
        return self._runner.run(self._workflow.send(inputs, state_id=state_id, headers=headers))

    def send_all(self, inputs: Any, *, state_id: str = "", headers: Mapping[str, str] | None = None) -> list[Any]:
        return self._runner.run(self._workflow.send_all(inputs, state_id=state_id, headers=headers))

    def post(self, inputs: Any, *, state_id: str = "", headers: Mapping[str, str] | None = None) -> None:
        async def post() -> None:  # a request needs a running loop
            self._workflow.post(inputs, state_id=state_id, headers=headers)

        self._runner.run(post())

    def advance(self, seconds: float) -> None:
        self._runner.run(self._workflow.advance(seconds))

    def fail(self, node: str, *, times: int = 1, error: Exception | None = None) -> None:
        self._workflow.fail(node, times=times, error=error)

    def outputs(self, node: str, channel: str = "") -> list[Any]:
        return self._workflow.outputs(node, channel)

    def dead_letters(self, node: str = "") -> list[DeadLetter]:
        return self._workflow.dead_letters(node)

    def state(self, node: str, state_id: str = "") -> Any:
        return self._workflow.state(node, state_id)

    def documents(self, collection: str) -> list[Document]:
        return self._workflow.documents(collection)

    def points(self, measurement: str) -> list[Point]:
        return self._workflow.points(measurement)

    def objects(self, store: str) -> dict[str, bytes]:
        return self._workflow.objects(store)
