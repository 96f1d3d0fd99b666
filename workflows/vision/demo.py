"""Sends the photographs through the running workflow and says what it saw: `krt run workflows/vision --demo`."""

import asyncio
import sys
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from statistics import mean, median

import photographs

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


def main() -> int:
    """Send, print; the exit code is 0 when every photograph was answered."""
    answers, measured, elapsed_s = asyncio.run(send_all(photographs.find()))
    figures = {
        "accuracy": share(answer.is_right for answer in answers),
        "held_out_accuracy": share(answer.is_right for answer in answers if answer.photograph.is_held_out),
        "images_per_s": len(measured) / elapsed_s,
        "p50_ms": median(answer.elapsed_ms for answer in measured),
    }
    print_report(answers, figures)
    return 0 if all(answer.label for answer in answers + measured) else 1


async def send_all(found: list[photographs.Photograph]) -> tuple[list[Answer], list[Answer], float]:
    """Return the answers of a first time, those of all `ROUNDS`, and the seconds that these took."""
    running = target.find("vision")
    async with target.connected(running, name="vision demo") as bus, Workflow(bus, running.stream) as workflow:
        answers = await ask_about(workflow, found)
        started_s = time.perf_counter()
        measured = await ask_about(workflow, found * ROUNDS)
        return answers, measured, time.perf_counter() - started_s


async def ask_about(workflow: Workflow, found: list[photographs.Photograph]) -> list[Answer]:
    """Send every photograph, `WINDOW` of them at a time, and return the answers."""
    free = asyncio.Semaphore(WINDOW)
    images = {photograph.path: photograph.path.read_bytes() for photograph in found}

    async def ask(photograph: photographs.Photograph) -> Answer:
        async with free:
            headers = {"file": photograph.path.name, "label": photograph.label}
            started_s = time.perf_counter()
            answer = {"label": "", "confidence": 0.0}
            try:
                answer = await workflow.predict(images[photograph.path], headers=headers)
            except PredictionError as error:
                print(f"no answer for {photograph.path.name}: {error}", file=sys.stderr)
            elapsed_ms = (time.perf_counter() - started_s) * 1000
            return Answer(photograph, answer["label"], answer["confidence"], elapsed_ms)

    return await asyncio.gather(*map(ask, found))


def share(flags: Iterable[bool]) -> float:
    return mean(map(float, flags))


def print_report(answers: list[Answer], figures: dict[str, float]) -> None:
    held_out = [answer for answer in answers if answer.photograph.is_held_out]
    lines = "\n".join(f"  {answer}" for answer in held_out)
    print(f"""
{len(held_out)} photographs that the model had not seen

{lines}

  accuracy      {figures["held_out_accuracy"]:.0%} of these, {figures["accuracy"]:.0%} of all {len(answers)}
  throughput    {figures["images_per_s"]:,.0f} images a second through three nodes
  latency       p50 {figures["p50_ms"]:.0f} ms, with {WINDOW} under way

Where to look next
  workflows/vision/README.md     what just ran, and its code
""")


if __name__ == "__main__":
    sys.exit(main())
