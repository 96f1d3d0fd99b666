"""Sends the photographs through the running workflow and says what it saw: `krt run workflows/vision --demo`."""

import asyncio
import sys
import time
from dataclasses import dataclass
from statistics import fmean, median

import photographs

from runtime import File
from runtime.cli import target
from runtime.client import Workflow
from runtime.errors import PredictionError

# Requests that are under way at once.
WINDOW = 64
# How often all photographs are sent for the throughput, behind a first time that brings up everything.
ROUNDS = 20


@dataclass
class Answer:
    """What the workflow saw in one photograph ("" for no answer), and how long that took."""

    photograph: photographs.Photograph
    label: str
    confidence: float
    elapsed_ms: float

    @property
    def is_right(self) -> bool:
        return self.label == self.photograph.label

    def __str__(self) -> str:
        verdict = "" if self.is_right else "  wrong"
        return f"{self.photograph.path.name:<16}{self.label:<12}{self.confidence:.0%}{verdict}"


@dataclass
class Figures:
    """How it did: right answers as shares of all photographs and of those held out, throughput, latency."""

    accuracy: float
    held_out_accuracy: float
    images_per_s: float
    p50_ms: float


def main() -> int:
    """Send and print; the exit code is 0 when every photograph was answered."""
    first, measured, elapsed_s = asyncio.run(send_all(photographs.find()))
    held_out = [answer for answer in first if answer.photograph.is_held_out]
    figures = Figures(
        accuracy=fmean(answer.is_right for answer in first),
        held_out_accuracy=fmean(answer.is_right for answer in held_out),
        images_per_s=len(measured) / elapsed_s,
        p50_ms=median(answer.elapsed_ms for answer in measured),
    )
    print_report(held_out, figures)
    return 0 if all(answer.label for answer in first + measured) else 1


async def send_all(found: list[photographs.Photograph]) -> tuple[list[Answer], list[Answer], float]:
    """Return the answers of a first time, those of all `ROUNDS`, and the seconds that these took."""
    running = target.find("vision")
    async with target.connected(running, name="vision demo") as bus, Workflow(bus, running.stream) as workflow:
        first = await ask_about(workflow, found)
        started_s = time.perf_counter()
        measured = await ask_about(workflow, found * ROUNDS)
        return first, measured, time.perf_counter() - started_s


async def ask_about(workflow: Workflow, found: list[photographs.Photograph]) -> list[Answer]:
    """Send every photograph, `WINDOW` of them at a time, and return the answers."""
    free = asyncio.Semaphore(WINDOW)

    async def ask(photograph: photographs.Photograph) -> Answer:
        async with free:
            image = File(photograph.path.read_bytes(), "image/jpeg", photograph.path.name)
            started_s = time.perf_counter()
            verdict = await predict(workflow, image, photograph.label)
            elapsed_ms = (time.perf_counter() - started_s) * 1000
            return Answer(photograph, verdict["label"], verdict["confidence"], elapsed_ms)

    return await asyncio.gather(*map(ask, found))


async def predict(workflow: Workflow, image: File, label: str) -> dict:
    """Return the workflow's answer, or an empty one when there is none."""
    try:
        return await workflow.predict(image, headers={"file": image.name, "label": label})
    except PredictionError as error:
        print(f"no answer for {image.name}: {error}", file=sys.stderr)
        return {"label": "", "confidence": 0.0}


def print_report(held_out: list[Answer], figures: Figures) -> None:
    lines = "\n".join(f"  {answer}" for answer in held_out)
    print(f"""
{len(held_out)} photographs that the model had not seen

{lines}

  accuracy      {figures.held_out_accuracy:.0%} of these, {figures.accuracy:.0%} of all
  throughput    {figures.images_per_s:,.0f} images a second through three nodes
  latency       p50 {figures.p50_ms:.0f} ms, with {WINDOW} under way

Where to look next
  workflows/vision/README.md               what just ran, and its code
  python workflows/vision/compare.py       the model with and without batches
""")


if __name__ == "__main__":
    sys.exit(main())
