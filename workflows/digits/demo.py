"""Feeds the held-out digits through the running workflow and says how it did: `krt run workflows/digits --demo`."""

import asyncio
import sys
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import dataset

from runtime.cli import target
from runtime.client import Workflow
from runtime.errors import PredictionError
from runtime.stores.open import open_documents, open_points
from runtime.stores.prediction import COLLECTION

# Requests that are under way at once.
WINDOW = 64
# Seconds that the last measurements may take to be written; they are stored in batches of one second.
WRITTEN_WITHIN_S = 10.0

HERE = Path(__file__).parent
STORE = ".krt/data.db"


@dataclass
class Answer:
    """One image: the digit as a person read it, as the workflow did ("" for none), and how long the answer took."""

    label: str
    digit: str
    elapsed_ms: float


async def main() -> int:
    """Feed, wait for what is stored, and print; the exit code is 0 when nothing is missing."""
    rows = dataset.held_out_part(HERE / "data" / "digits.csv")
    stored_before = await count_stored()
    found = target.find("digits")
    started_s = time.perf_counter()
    async with target.connected(found, name="digits demo") as bus, Workflow(bus, found.stream) as workflow:
        answers = await feed(workflow, rows)
    elapsed_s = time.perf_counter() - started_s
    stored = await wait_until_stored(stored_before, len(rows))
    print_report(answers, elapsed_s, stored)
    return 0 if stored == (len(rows), len(rows)) and all(answer.digit for answer in answers) else 1


async def feed(workflow, rows):
    """Send every row, `WINDOW` of them at a time, and return the answers."""
    free = asyncio.Semaphore(WINDOW)

    async def ask(pixels, label):
        async with free:
            started_s = time.perf_counter()
            digit = ""
            try:
                digit = (await workflow.predict({"pixels": pixels, "label": str(label)}))["digit"]
            except PredictionError as error:
                print(f"no answer for a {label}: {error}", file=sys.stderr)
            return Answer(str(label), digit, (time.perf_counter() - started_s) * 1000)

    return await asyncio.gather(*(ask(pixels, label) for pixels, label in rows))


async def count_stored():
    """Return how many predictions and measurements the store of this run holds."""
    documents, points = open_documents(f"sqlite:///{STORE}"), open_points(f"sqlite:///{STORE}")
    try:
        return len(await documents.find(COLLECTION, {})), len(await points.query("digit"))
    finally:
        await documents.close()
        await points.close()


async def wait_until_stored(before, expected):
    """Return how many predictions and measurements were added, once as many as expected are there or time is over."""
    give_up_s = time.monotonic() + WRITTEN_WITHIN_S
    while True:
        predictions, measurements = await count_stored()
        added = predictions - before[0], measurements - before[1]
        if min(added) >= expected or time.monotonic() > give_up_s:
            return added
        await asyncio.sleep(0.2)


def print_report(answers, elapsed_s, stored):
    right = sum(answer.digit == answer.label for answer in answers)
    times_ms = sorted(answer.elapsed_ms for answer in answers)
    print(f"""
{len(answers)} handwritten digits that the model had not seen

  accuracy      {right / len(answers):.1%} ({right} of {len(answers)})
  throughput    {len(answers) / elapsed_s:,.0f} requests a second through three nodes
  latency       p50 {percentile(times_ms, 0.5):.0f} ms, p95 {percentile(times_ms, 0.95):.0f} ms, with {WINDOW} under way
  stored        {stored[0]} predictions and {stored[1]} measurements in {STORE}

{confusion_table(answers)}

Where to look next
  workflows/digits/README.md                                   what just ran, and its code
  krt run workflows/digits                                     keep it running, and in a second shell:
    krt send digits @workflows/digits/sample.json                one image
    krt driver services digits                                   where it is served over HTTP
    krt status digits                                            the nodes and what waits for them
  krt new demo                                                 a workflow of your own
  docs/getting-started.md                                      the first five minutes
""")


def confusion_table(answers):
    """Return how often each digit (rows) was read as which (columns)."""
    counts = Counter((answer.label, answer.digit) for answer in answers)
    digits = [str(digit) for digit in range(10)]
    lines = ["  digit    read as" + "".join(f"{digit:>5}" for digit in digits)]
    for label in digits:
        cells = "".join(f"{counts[label, digit] or '.':>5}" for digit in digits)
        lines.append(f"      {label}           {cells}")
    return "\n".join(lines)


def percentile(ordered, share):
    return ordered[min(len(ordered) - 1, int(len(ordered) * share))]


if __name__ == "__main__":
    sys.exit(asyncio.run(main()))
