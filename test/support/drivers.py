"""Runs a driver in a test, on the in-memory bus, beside a workflow that answers as `answering_node` says.

async with hosted(Stress) as driver:                 # or lambda: FastAPIDriver(...)
    port = driver.services[0].port
    driver.set_parameters({"task_ttl": 10})
assert driver.state is DriverState.STOPPED
"""

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

from runtime.bus.base import Bus
from runtime.bus.memory import MemoryBroker
from runtime.clock import Clock, SystemClock
from runtime.drivers.inference import WorkflowView
from runtime.drivers.runner import DriverRunner, DriverTerms
from runtime.spec import names
from test.support.answering_node import NODE, AnsweringNode, stream_config

STREAM = "test_v1_echo"
WORKFLOW = WorkflowView(name="echo", stream=STREAM, output_subjects=(names.node_subject(STREAM, NODE),))


@asynccontextmanager
async def echo_workflow(clock: Clock | None = None) -> AsyncIterator[Bus]:
    """Yield a connection to a broker with a workflow on `STREAM` that answers."""
    broker = MemoryBroker(clock or SystemClock())
    await broker.connect().ensure_stream(stream_config(STREAM))
    async with AnsweringNode(broker.connect(), STREAM):
        bus = broker.connect()
        yield bus
        await bus.close()


@asynccontextmanager
async def hosted(
    make: Callable[[], object],
    bus: Bus | None = None,
    *,
    view: WorkflowView = WORKFLOW,
    terms: DriverTerms | None = None,
    clock: Clock | None = None,
) -> AsyncIterator[DriverRunner]:
    """Run a driver inside the block; it is stopped at its end. bus: by default that of an `echo_workflow`.

    Raises DriverStartError.
    """
    if bus is None:
        async with echo_workflow(clock) as bus, hosted(make, bus, view=view, terms=terms, clock=clock) as runner:
            yield runner
        return
    runner = DriverRunner("tested", make, bus, view, clock or SystemClock(), terms=terms)
    await runner.start()
    try:
        yield runner
    finally:
        await runner.stop()
