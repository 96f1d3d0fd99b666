"""BentoML, which this project does not depend on: installed into an environment of its own and served from there.

The environment lies in the user's cache, and is made once. pip takes everything from where the machine's settings say.
"""

import asyncio
import logging
import os
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from test.bench.driver_process import running
from test.bench.processes import HANDLERS, Child, clean_environment
from test.bench.workbench import Workbench
from test.support.ports import free_port

log = logging.getLogger(__name__)

NAME = "bentoml 1.4.30"
# BentoML takes uvloop when it is there; all other servers of the comparison have it.
REQUIREMENTS = ("bentoml==1.4.30", "uvloop==0.23.0")
CACHE = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "krt-bench"
# Seconds for about 70 packages and 190 MB; a hundred are usual.
INSTALL_S = 300.0
SERVICES = Path(__file__).parent / "peers"
ECHO = "bentoml_service:Echo"


class NotInstalledError(Exception):
    """BentoML is not to be had on this machine; the message says why."""


async def installed() -> Path:
    """Return the Python of an environment with BentoML, made by the first call. Raises NotInstalledError."""
    environment = CACHE / "_".join(REQUIREMENTS)
    if not environment.exists():
        log.warning("installing %s into %s, which takes minutes", NAME, environment)
        await asyncio.to_thread(_install, environment)
    return environment / "bin" / "python"


def _install(environment: Path) -> None:
    CACHE.mkdir(parents=True, exist_ok=True)
    # Renamed when it is complete: an install that was broken off is never taken for one.
    with tempfile.TemporaryDirectory(dir=CACHE) as folder:
        unfinished = Path(folder) / "environment"
        _run(sys.executable, "-m", "venv", str(unfinished))
        _run(str(unfinished / "bin" / "python"), "-m", "pip", "install", "--quiet", *REQUIREMENTS)
        unfinished.rename(environment)


def _run(*command: str) -> None:
    try:
        subprocess.run(
            command, check=True, timeout=INSTALL_S, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
        )
    except subprocess.TimeoutExpired as error:
        raise NotInstalledError(f"installing it took more than {INSTALL_S:.0f} s") from error
    except subprocess.CalledProcessError as error:
        lines = error.output.strip().splitlines() or [f"exit code {error.returncode}"]
        raise NotInstalledError(f"it could not be installed: {lines[-1]}") from error


@asynccontextmanager
async def served(bench: Workbench, python: Path, service: str = ECHO) -> AsyncIterator[int]:
    """Serve a peer, by default the handler of the measured nodes, with one worker as BentoML does; yields the port."""
    port = free_port()
    ready, other_side = os.pipe()
    command = [str(python), "-m", "bentoml", "serve", "--host", "127.0.0.1", "--port", str(port)]
    command += ["--working-dir", str(SERVICES), service]
    environment = clean_environment() | {
        "BENTOML_DO_NOT_TRACK": "True",
        "BENTOML_HOME": str(bench.folder / "bentoml"),
        "KRT_READY_FD": str(other_side),
        "PYTHONPATH": str(HANDLERS),
    }
    async with running(Child(command, environment, bench.folder / "bentoml.log", ready)):
        yield port
