"""`init` and a runtime in memory: what it takes, and that it leaves nothing behind."""

import asyncio
import gc
import socket
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import runtime
from runtime import drivers
from runtime.errors import BusClosedError, ConfigError, DriverStartError, HandlerLoadError, WorkflowError
from runtime.inference import init
from runtime.spec.load import load
from test.support.sample_drivers import Stress, Waits
from test.support.threads import left_behind

HELLO = Path(__file__).parents[2] / "workflows" / "hello"


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ({"kind": "cloud"}, 'no runtime "cloud"; use "debug" or "nats"'),
        ({"kind": "nats"}, "needs servers="),
        ({"kind": "debug", "servers": "nats://127.0.0.1:4222"}, "takes none"),
    ],
)
def test_wrong_arguments_are_refused_with_the_right_ones(arguments: dict[str, Any], text: str) -> None:
    with pytest.raises(ConfigError, match=text):
        init(**arguments)


def test_a_workflow_is_given_by_its_folder_its_file_or_itself() -> None:
    with init("debug") as rt:
        for workflow in (str(HELLO), HELLO / "workflow.yaml", load(HELLO)):
            proc = rt.start_inference(workflow)
            assert (proc.workflow, proc.stream) == ("hello", "local_dev_hello")
            assert proc.predict({"name": "Ada"}).result(5) == {"greeting": "Hello, Ada!"}
            proc.stop()


async def test_a_running_loop_uses_the_forms_that_are_awaited() -> None:
    async with init("debug") as rt:
        proc = await rt.astart_inference(HELLO)
        assert await proc.apredict({"name": "Ada"}) == {"greeting": "Hello, Ada!"}
        driver = await proc.aadd_driver("stress", Stress, predictions=1)
        await driver.astop()
        await proc.astop()


@pytest.mark.parametrize(("text", "error"), [("nodes: []", WorkflowError), ("import nothing_at_all", HandlerLoadError)])
def test_a_workflow_that_cannot_start_says_why_and_leaves_nothing(tmp_path: Path, text: str, error: Any) -> None:
    is_workflow = error is WorkflowError
    (tmp_path / "workflow.yaml").write_text(
        f"name: a\n{text if is_workflow else 'nodes: [{name: b, handler: b.py}]'}\n"
    )
    (tmp_path / "b.py").write_text("" if is_workflow else text)
    threads = threading.enumerate()

    with init("debug") as rt, pytest.raises(error):
        rt.start_inference(tmp_path)

    assert left_behind(threads) == []


def stop_process(rt: runtime.Runtime, proc: runtime.InferenceProcess) -> None:
    proc.stop()
    proc.stop()
    rt.stop()


def stop_runtime(rt: runtime.Runtime, proc: runtime.InferenceProcess) -> None:
    rt.stop()
    rt.stop()


@pytest.mark.parametrize("stop", [stop_process, stop_runtime])
def test_nothing_is_left_behind(stop: Callable[[runtime.Runtime, runtime.InferenceProcess], None]) -> None:
    threads = threading.enumerate()
    rt = init("debug")
    proc = rt.start_inference(HELLO)
    driver = proc.add_driver("waits", Waits)
    port = driver.get_service("echo")["port"]
    pending = proc.predict({"name": "Ada"})

    stop(rt, proc)

    assert left_behind(threads) == []
    assert pending.done()
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", port))
    with pytest.raises(BusClosedError):
        proc.predict({"name": "Ada"})
    gc.collect()
    assert [task for task in gc.get_objects() if isinstance(task, asyncio.Task) and not task.done()] == []


def test_a_lambda_and_a_closure_are_drivers_in_memory() -> None:
    with init("debug") as rt:
        proc = rt.start_inference(HELLO)

        driver = proc.add_driver("closure", lambda: Stress(predictions=1))

        assert driver.record.driver.endswith("<lambda>")
        with pytest.raises(DriverStartError, match="only the runtime makes drivers"):
            proc.add_driver("instance", Stress())  # type: ignore[arg-type]  # what is refused


def test_every_public_name_is_there() -> None:
    assert [name for name in runtime.__all__ if not callable(getattr(runtime, name))] == []
    assert [name for name in drivers.__all__ if not hasattr(drivers, name)] == []
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = runtime.nothing


def test_the_names_of_the_package_cost_a_node_nothing() -> None:
    program = "import runtime, runtime.drivers, sys; print(sorted({'fastapi', 'grpc', 'nats'} & set(sys.modules)))"

    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)

    assert done.stdout.strip() == "[]"
