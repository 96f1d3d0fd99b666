"""`krt run` as a process, for tests with a loop."""

import asyncio
import signal
import sys
from pathlib import Path

from test.support.guarded_nats import environment

# Seconds after which something that has to happen is taken for lost.
PATIENCE_S = 30.0


class RunProcess:
    """One run and its lines, those of all its processes."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self.process = process
        self.lines: list[str] = []

    @classmethod
    async def start(cls, place: Path, *arguments: str, **variables: str) -> "RunProcess":
        """Start in a folder, which gets the run's private one. variables: added to the environment."""
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "runtime", "run", *arguments,
            cwd=place, env=environment(**variables), start_new_session=True,
            stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT,
        )  # fmt: skip
        return cls(process)

    async def wait_for(self, text: str) -> str:
        """Return the next line that holds the text; fails when the run ends or nothing comes."""
        try:
            async with asyncio.timeout(PATIENCE_S):
                while line := await self._read_line():
                    if text in line:
                        return line
        except TimeoutError:
            pass
        raise AssertionError(f"no line holds {text!r}:\n" + "\n".join(self.lines))

    async def stop(self) -> int:
        """Stop in order, and return the exit code."""
        if self.process.returncode is None:
            self.process.send_signal(signal.SIGINT)
        try:
            async with asyncio.timeout(PATIENCE_S):
                while await self._read_line():
                    continue
                return await self.process.wait()
        except TimeoutError:
            self.process.kill()
            raise AssertionError("the run does not stop:\n" + "\n".join(self.lines)) from None

    async def _read_line(self) -> str:
        """Return a line with its end, "" at the end of all."""
        assert self.process.stdout is not None
        line = (await self.process.stdout.readline()).decode()
        if line:
            self.lines.append(line.rstrip("\n"))
        return line
