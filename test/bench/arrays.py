"""What an array costs a node: the same numbers as a native payload, as bytes of the same size, and as lists in JSON."""

from statistics import median

from test.bench import payloads
from test.bench.driver_process import running
from test.bench.processes import start_node
from test.bench.report import Row
from test.bench.workbench import Workbench

# Bytes of an array -> messages a second of a node, roughly: how many one measurement needs.
ABOUT = {1_000: 3_000, 100_000: 600, 1_000_000: 100}
# Handlers by the form that they take and return. Lists of the largest array are more than a server takes.
HANDLERS = {"array": "arrays.py", "bytes": "raw.py", "lists": "echo.py"}
LARGEST_LISTS_BYTES = 100_000


async def measure(bench: Workbench, seconds: float, rounds: int) -> list[Row]:
    """Let a node empty a stream, by size and form, the forms in turn."""
    return [row for size_bytes in ABOUT for row in await _measure_size(bench, size_bytes, seconds, rounds)]


async def _measure_size(bench: Workbench, size_bytes: int, seconds: float, rounds: int) -> list[Row]:
    forms = [form for form in HANDLERS if form != "lists" or size_bytes <= LARGEST_LISTS_BYTES]
    rates: dict[str, list[float]] = {form: [] for form in forms}
    for _ in range(rounds):
        for form, measured in rates.items():
            measured.append(await _drain(bench, form, size_bytes, int(ABOUT[size_bytes] * seconds)))
    array = median(rates["array"])
    return [
        Row(
            name=f"array of {size_bytes:,} B",
            who=form,
            value=median(measured),
            unit="msg/s",
            low=min(measured),
            high=max(measured),
            ratio=None if form == "array" else array / median(measured),
            baseline="" if form == "array" else form,
        )
        for form, measured in rates.items()
    ]


async def _drain(bench: Workbench, form: str, size_bytes: int, messages: int) -> float:
    """Return the messages a second of a full stream."""
    async with bench.chain(1) as stages:
        await bench.preload(stages[0], payloads.envelope(payloads.array_of_size(size_bytes, form)), messages)
        child = start_node(stages[0], bench.folder, handler=HANDLERS[form])
        async with running(child):
            return (await bench.follow(stages, [child], messages)).rate
