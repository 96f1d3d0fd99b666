"""docker or podman, spoken to through its command line, which is the same of both where this package uses it.

That of docker finds its daemon by `DOCKER_HOST` or the usual socket, that of podman needs none.
"""

import asyncio
import re
import shutil
import subprocess
from collections.abc import Mapping

from runtime.errors import BackendUnavailableError, KrtError

ENGINES = ("docker", "podman")
# Seconds for a call that only has to be answered; pulls and waits have no limit.
CALL_S = 60.0
# What either says when the daemon or a registry does not answer, or asks to come back later.
_UNAVAILABLE = re.compile(
    r"cannot connect|error during connect|connection (refused|reset)|no such host|no route to host|is unreachable"
    r"|i/o timeout|handshake timeout|deadline exceeded|unexpected eof|toomanyrequests|too many requests"
    r"|temporary failure|server misbehaving|service unavailable|bad gateway|status:? 5\d\d|status code:? 5\d\d",
    re.IGNORECASE,
)
# Characters of what an engine says that go into an error.
_MAX_SAID = 1000


class EngineRefusalError(KrtError):
    """The engine answers, and does not do what it was asked for; the message is what it says."""


class Engine:
    """One engine. program: `docker` or `podman`. environ: of its processes."""

    def __init__(self, program: str, environ: Mapping[str, str]) -> None:
        self.program = program
        # As uvloop wants it: it takes no other mapping.
        self.environ = dict(environ)

    async def call(self, *arguments: str, timeout_s: float | None = CALL_S) -> bytes:
        """Run a command of the engine and return what it prints. Cancelling ends the command, not what it has begun.

        Raises EngineRefusalError, BackendUnavailableError.
        """
        try:
            process = await asyncio.create_subprocess_exec(
                self.program, *arguments,
                stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=self.environ,
            )  # fmt: skip
        except OSError as error:
            raise BackendUnavailableError(f"{self.program} cannot be started: {error}") from error
        try:
            async with asyncio.timeout(timeout_s):
                printed, said = await process.communicate()
        except TimeoutError as error:
            message = f"{self.program} {arguments[0]} has not answered in {timeout_s:g} s"
            raise BackendUnavailableError(message) from error
        finally:
            if process.returncode is None:
                process.kill()
                await process.wait()
        if process.returncode != 0:
            raise self.refusal(said)
        return printed

    async def copy_out(self, container: str, path: str, most_bytes: int) -> bytes:
        """Return the beginning of a tar archive with what a container has at `path`; b"" for nothing."""
        process = await asyncio.create_subprocess_exec(
            self.program, "cp", f"{container}:{path}", "-",
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, env=self.environ,
        )  # fmt: skip
        assert process.stdout is not None
        archive = bytearray()
        try:
            async with asyncio.timeout(CALL_S):
                while len(archive) < most_bytes and (chunk := await process.stdout.read(most_bytes)):
                    archive += chunk
        except TimeoutError as error:
            raise BackendUnavailableError(f"{self.program} cp has not ended in {CALL_S:g} s") from error
        finally:
            if process.returncode is None:
                process.kill()
            await process.communicate()
        return bytes(archive)

    def refusal(self, said: bytes) -> KrtError:
        """Return the error for what a failed command has said: BackendUnavailableError or EngineRefusalError."""
        text = said.decode(errors="replace").strip()[-_MAX_SAID:]
        kind = BackendUnavailableError if _UNAVAILABLE.search(text) else EngineRefusalError
        return kind(f"{self.program}: {text or 'it failed without a word'}")


async def find_engine(name: str, environ: Mapping[str, str]) -> Engine:
    """Return the engine of this name, for `auto` the first that answers. Raises BackendUnavailableError."""
    faults = []
    for program in ENGINES if name == "auto" else (name,):
        if shutil.which(program, path=environ.get("PATH")) is None:
            faults.append(f"{program} is not installed")
            continue
        engine = Engine(program, environ)
        try:
            await engine.call("ps", "--quiet")
        except (EngineRefusalError, BackendUnavailableError) as error:
            faults.append(str(error))
        else:
            return engine
    raise BackendUnavailableError(f"no engine for containers answers ({'; '.join(faults)})")
