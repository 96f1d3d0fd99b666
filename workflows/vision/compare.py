"""Runs the node `classify` by itself, without batches and with them, and prints the difference.

    python workflows/vision/compare.py [ROUNDS]

It gets photographs that are decoded already: in the whole workflow, on a machine of few cores, the model is the least.
"""

import asyncio
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from statistics import median

import numpy as np
import photographs
import pixels

from runtime.cli import target
from runtime.client import Workflow

HERE = Path(__file__).parent
WAYS = {"one by one": HERE / "one-by-one.yaml", "in batches": HERE / "in-batches.yaml"}
# The ways take turns, so that what else the machine does slows down both. In each, all photographs are sent so often.
ROUNDS, REPEATS = 3, 50
# Requests that are under way at once: enough to fill batches.
WINDOW = 256


@dataclass
class Speed:
    """images_per_s: answered. cpu_us: processor time that the node's process took for an image."""

    images_per_s: float
    cpu_us: float


def main() -> None:
    rounds = int(sys.argv[1]) if len(sys.argv) > 1 else ROUNDS
    images = [pixels.read(photograph.path.read_bytes()) for photograph in photographs.find()]
    runs: dict[str, list[Speed]] = {way: [] for way in WAYS}
    for _ in range(rounds):
        for way, file in WAYS.items():
            with running(file) as place:
                runs[way].append(asyncio.run(measure(place, images)))
    alone, batched = (median_of(runs[way]) for way in WAYS)
    for way, speed in zip(WAYS, (alone, batched), strict=True):
        print(f"{way:<12}{speed.images_per_s:8,.0f} images a second{speed.cpu_us:8,.0f} µs of processor time each")
    ratios = batched.images_per_s / alone.images_per_s, batched.cpu_us / alone.cpu_us
    print(f"{'difference':<12}{ratios[0]:8.2f} times as many{ratios[1]:12.2f} times the processor time")


@contextmanager
def running(file: Path) -> Iterator[Path]:
    """Run the workflow of a file, and give the folder in which `krt` finds it."""
    with tempfile.TemporaryDirectory(prefix="krt-vision-") as place:
        command = [sys.executable, "-m", "runtime", "run", str(file.absolute()), "--log-level", "warn"]
        run = subprocess.Popen(command, cwd=place, stdout=subprocess.PIPE, text=True)
        try:
            for line in run.stdout:
                if "ready in" in line:
                    break
            yield Path(place)
        finally:
            run.terminate()
            run.communicate()


async def measure(place: Path, images: list[np.ndarray]) -> Speed:
    """Send all images once to bring everything up, then measure `REPEATS` times all of them."""
    found = target.find("vision", start=place)
    async with target.connected(found, name="vision compare") as bus, Workflow(bus, found.stream) as workflow:
        await classify(workflow, images)
        started_s, cpu_before_s = time.perf_counter(), cpu_s(place)
        answers = await classify(workflow, images * REPEATS)
        elapsed_s, used_s = time.perf_counter() - started_s, cpu_s(place) - cpu_before_s
    return Speed(images_per_s=len(answers) / elapsed_s, cpu_us=used_s / len(answers) * 1e6)


async def classify(workflow: Workflow, images: list[np.ndarray]) -> list[dict]:
    free = asyncio.Semaphore(WINDOW)

    async def ask(image: np.ndarray) -> dict:
        async with free:
            return await workflow.predict(image)

    return await asyncio.gather(*map(ask, images))


def cpu_s(place: Path) -> float:
    """Return the processor time that the node's process has used so far, as Linux tells it."""
    pid = json.loads((place / ".krt" / "processes.json").read_text())["classify"]["pid"]
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def median_of(speeds: list[Speed]) -> Speed:
    return Speed(median(speed.images_per_s for speed in speeds), median(speed.cpu_us for speed in speeds))


if __name__ == "__main__":
    main()
