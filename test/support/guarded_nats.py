"""A nats-server that runs under the permissions which `krt permissions` prints, with the credentials that it makes."""

import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from runtime.bus.embedded import EmbeddedServer

ROOT = Path(__file__).parents[2]
# Seconds that a command may take.
TIMEOUT_S = 60.0


def krt(place: Path, *arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
    """Run a command of `krt` in a folder, without variables of the environment that it would read."""
    return subprocess.run(
        [sys.executable, "-m", "runtime", *arguments],
        cwd=place,
        env=environment(**variables),
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
        check=False,
    )


def environment(**variables: str) -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith("KRT_") or name.endswith("_BIN")}
    return {**kept, "PYTHONPATH": str(ROOT), **variables}


class GuardedServer(EmbeddedServer):
    """Adds a configuration file, which EmbeddedServer's own options cannot be: it includes another one."""

    def __init__(self, store: Path, *, binary: Path, configuration: Path) -> None:
        super().__init__(store, binary=binary)
        self._configuration = configuration

    def _command(self) -> list[str]:
        return [*super()._command(), "-c", str(self._configuration)]


def guarded_server(folder: Path, binary: Path, workflows: Sequence[Path]) -> tuple[GuardedServer, Path]:
    """Return a server that is not started yet, and the folder of the credentials of all its users."""
    credentials = folder / "credentials"
    printed = krt(folder, "permissions", *map(str, workflows), "--credentials", str(credentials))
    assert printed.returncode == 0, printed.stderr
    configuration = credentials / "permissions.conf"
    return GuardedServer(folder / "nats", binary=binary, configuration=configuration), credentials
