"""For users' tests: a whole workflow in memory, or one handler alone. Nothing is started, no network, no real waiting.

    from runtime.testing import run_workflow

    def test_greets() -> None:
        with run_workflow("workflow.yaml") as workflow:
            assert workflow.send({"name": "Ada"}) == {"greeting": "Hello, Ada!"}

| want | take |
|---|---|
| a workflow in a plain test | `with run_workflow(path) as workflow:` |
| a workflow in an `async def` test | `async with Workflow(path) as workflow:`, the same members, some to be awaited |
| one handler | `await call(handler, RecordingContext(), data)` |
| one that takes batches | `await call(handler, RecordingBatch([RecordingContext()]), [data])` |
"""

from runtime.testing.handler import RecordingBatch, RecordingContext, Sent, call
from runtime.testing.sync import SyncWorkflow, run_workflow
from runtime.testing.workflow import Workflow

__all__ = ["RecordingBatch", "RecordingContext", "Sent", "SyncWorkflow", "Workflow", "call", "run_workflow"]
