"""`workflows/counter/notebook.py`: every call of the tour of drivers, as a program that leaves nothing behind."""

import asyncio
import re
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
# Seconds that the tour may take.
LIMIT_S = 90.0


async def test_the_tour_of_drivers_runs_to_its_end() -> None:
    tour = await asyncio.create_subprocess_exec(
        sys.executable,
        "workflows/counter/notebook.py",
        cwd=ROOT,
        env={"PYTHONPATH": str(ROOT)},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    async with asyncio.timeout(LIMIT_S):
        printed, logged = (text.decode() for text in await tour.communicate())

    assert (tour.returncode, logged) == (0, "")
    for expected in (
        "manual inference: {'output': 2, 'counter': 1}",
        "FastAPIDriver services: http",
        "HTTP predict result: {'output': 2, 'counter': 2}",
        "HTTP prediction task result: {'output': 2, 'counter': 3}",
        "* manual inference still possible: {'output': 2, 'counter': 4}",
        "Can also be tested via `client.wait()`:",
        "Server back online!",
        "Assigned ports: {'dummy-port': ",
        "Average time over 1000 predictions:",
        "custom driver: finished",
    ):
        assert expected in printed
    assert re.search(r"Updated FastAPI parameters: Parameters\(task_ttl=10", printed)
    # The counter of the source's own state id, apart from that of the requests before.
    assert re.search(r"draining +\{'output': \d+, 'counter': 1\}", printed)
