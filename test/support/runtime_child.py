"""One process of the runtime as a child of a test: started with KRT_* variables, waited for, killed."""

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Self

ROOT = Path(__file__).parents[2]
# Seconds after which something that has to happen is taken for lost.
PATIENCE_S = 30.0


class RuntimeChild:
    """`python -m runtime <kind>`; its output goes to `log_file`."""

    def __init__(self, arguments: Sequence[str], variables: Mapping[str, str], log_file: Path) -> None:
        """arguments: what follows `python -m`. variables: added to the environment of the tests."""
        read_end, write_end = os.pipe()
        self.log_file = log_file
        with log_file.open("ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", *arguments],
                cwd=ROOT,
                env={**os.environ, **variables, "KRT_READY_FD": str(write_end)},
                pass_fds=[write_end],
                stdout=log,
                stderr=log,
            )
        os.close(write_end)
        self._ready = read_end

    async def ready(self) -> Self:
        """Wait until it does its work; fails with its log when it ends before."""
        said = await asyncio.wait_for(asyncio.to_thread(os.read, self._ready, 16), PATIENCE_S)
        assert said == b"ready\n", f"the process ended with {self.process.wait()}:\n{self.log()}"
        return self

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()

    def terminate(self) -> None:
        self.process.send_signal(signal.SIGTERM)

    async def exit_code(self) -> int:
        return await asyncio.wait_for(asyncio.to_thread(self.process.wait), PATIENCE_S)

    def log(self) -> str:
        return self.log_file.read_text()

    def close(self) -> None:
        """End it, whatever the test has left of it."""
        if self.process.poll() is None:
            self.kill()
        os.close(self._ready)
