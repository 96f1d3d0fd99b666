"""A worker of batch runs that starts one and waits to be killed: `python -m test.support.batch_worker BACKEND JOB`.

BACKEND is `command` or the engine of containers. It prints what the model prints.
"""

import asyncio
import json
import sys
from pathlib import Path

from runtime.batch.backend import Backend, Job, worker_name
from runtime.batch.command import CommandBackend
from runtime.batch.container import ContainerBackend


async def main(kind: str, said: str) -> None:
    backend: Backend = CommandBackend() if kind == "command" else ContainerBackend(engine=kind)
    values = json.loads(said)
    root = Path(values["root"])
    job = Job(
        run_id=values["run_id"],
        worker=worker_name(),
        image=values["image"],
        command=tuple(values["command"]),
        input=root / "input",
        output=root / "output",
        log=root / "log",
        metadata=root / "metadata.json",
    )
    await backend.prepare(job)
    running = await backend.start(job, show)
    await running.wait()


def show(_: str, data: bytes) -> None:
    sys.stdout.buffer.write(data)
    sys.stdout.flush()


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
