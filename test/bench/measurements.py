"""What `ctx.measurement.save` takes from a handler, in a node that is as busy as it can be and writes to SQLite."""

from statistics import median, quantiles

from runtime import wire
from runtime.payload import decode_value
from test.bench import payloads
from test.bench.processes import start_node
from test.bench.report import Row, Target
from test.bench.workbench import Workbench

SIZE_BYTES = 200
# Each saves one measurement; below the 10,000 that wait in a process at most.
MESSAGES = 5_000
TARGET = Target(bound=50, at_most=True)


async def measure(bench: Workbench) -> list[Row]:
    """Return the median and the slowest hundredth of the calls, in microseconds."""
    async with bench.chain(1) as stages:
        stage = stages[0]
        await bench.preload(stage, payloads.envelope(payloads.json_of_size(SIZE_BYTES)), MESSAGES)
        child = start_node(stage, bench.folder, handler="measure.py")
        try:
            await bench.follow(stages, [child], MESSAGES)
        finally:
            await child.stop()
        # The inputs fill the stream up to MESSAGES; behind them lies one output for each.
        outputs = range(MESSAGES + 1, 2 * MESSAGES + 1)
        times_us = [await _read_time(bench, stage.stream, sequence) for sequence in outputs]
    shown = {"p50": median(times_us), "p99": quantiles(times_us, n=100)[98]}
    return [
        Row(name=f"measurement.save, {name}", who="handler", value=value, unit="µs", target=TARGET)
        for name, value in shown.items()
    ]


async def _read_time(bench: Workbench, stream: str, sequence: int) -> float:
    """Return what the handler of one message has answered."""
    message = wire.decode((await bench.bus.get_message(stream, sequence)).data)
    return float(decode_value(message.payload)["took_us"])
