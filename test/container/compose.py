"""A compose file run by podman-compose: started, asked, killed in parts, and removed with all that it made."""

import os
import signal
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

from test.container.podman import Podman

# The tool of this stage alone, and therefore in no lock.
PACKAGE = "podman-compose==1.6.0"
INSTALL_S = 120


class NoComposeError(Exception):
    """podman-compose cannot be installed; the message says why."""


def install(folder: Path) -> Path:
    """Return podman-compose, from the package index into an environment of its own. Raises NoComposeError."""
    python = folder / "bin/python"
    try:
        subprocess.run([sys.executable, "-m", "venv", str(folder)], check=True, capture_output=True, timeout=INSTALL_S)
        command = [str(python), "-m", "pip", "install", "--quiet", PACKAGE]
        subprocess.run(command, check=True, capture_output=True, timeout=INSTALL_S)
    except subprocess.SubprocessError as error:
        raise NoComposeError(f"{PACKAGE} could not be installed from the package index: {error}") from error
    return folder / "bin/podman-compose"


class Project:
    """The containers of one compose file, known by their services; each has one replica."""

    def __init__(self, podman: Podman, program: Path, *, file: Path, variables: Mapping[str, str]) -> None:
        """Prepare; nothing is started. variables: what the file refers to."""
        self.name = "krt-container-test"
        self._podman = podman
        self._command = [str(program), "--project-name", self.name, "--file", str(file)]
        self._variables = variables

    def up(self) -> None:
        """Start every container; they may not be ready yet."""
        self._podman.call(*self._command, "up", "--detach", variables=self._variables)

    def wait_for_line(self, service: str, ending: str) -> None:
        self._podman.wait_for_line(self._container(service), ending)

    def crash(self, service: str) -> None:
        """Kill the process of a container from outside, as a crash would; the file says what happens then."""
        # `podman kill` would count as a wish that it stays down.
        os.kill(int(self._inspect(service, "{{.State.Pid}}")), signal.SIGKILL)

    def restarts(self, service: str) -> int:
        """Return how often the container was started again by itself."""
        return int(self._inspect(service, "{{.RestartCount}}"))

    def check_health(self, service: str) -> None:
        """Run the service's health check; fails with what it says."""
        self._podman.run("healthcheck", "run", self._container(service))

    def execute(self, service: str, *command: str) -> str:
        """Run a command in a container, and return what it printed."""
        return self._podman.run("exec", self._container(service), *command)

    def logs(self, service: str) -> str:
        return self._podman.run("logs", self._container(service))

    def down(self) -> None:
        """Remove containers, network and volumes."""
        self._podman.call(*self._command, "down", "--volumes", "--timeout", "1", variables=self._variables)

    def _inspect(self, service: str, template: str) -> str:
        return self._podman.run("inspect", f"--format={template}", self._container(service)).strip()

    def _container(self, service: str) -> str:
        return f"{self.name}_{service}_1"
