"""Runs the tests marked `integration` on the best servers there are: `make integration`.

Those that KRT_TEST_* name; else, where a Docker engine runs, the ones of test/docker-compose.yaml; else the servers
that the fixtures find. Which it is, is said before the tests.
"""

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

TEST_ROOT = Path(__file__).parents[1]
COMPOSE = ("docker", "compose", "--file", str(TEST_ROOT / "docker-compose.yaml"))
# Where test/docker-compose.yaml has its servers.
VARIABLES = {
    "KRT_TEST_NATS_URL": "nats://127.0.0.1:4222",
    "KRT_TEST_MONGO_URI": "mongodb://127.0.0.1:27017",
    "KRT_TEST_INFLUX_URI": "http://127.0.0.1:8086",
    "KRT_TEST_INFLUX_TOKEN": "krt-test-token",
    "KRT_TEST_INFLUX_ORG": "krt",
}
# Seconds for an answer of the engine, and for pulling the images and starting the servers.
ANSWER_S, UP_S = 20, 900
# Of what a failed command says: its end, for progress comes before.
MAX_REASON_CHARS = 300


class NoEngineError(Exception):
    """There are no containers to be had on this machine; the message says why."""


def main(arguments: list[str]) -> int:
    """Return pytest's exit code. arguments: for pytest."""
    with servers() as variables:
        command = [sys.executable, "-m", "pytest", "-m", "integration", *arguments]
        return subprocess.run(command, env={**os.environ, **variables}).returncode


@contextmanager
def servers() -> Iterator[dict[str, str]]:
    """Yield the variables that name the servers; containers that were started here are removed at the end."""
    if given := [name for name in VARIABLES if name in os.environ]:
        say(f"those of {', '.join(given)}")
        yield {}
        return
    with ExitStack() as cleanup:
        try:
            start_containers(cleanup)
        except NoEngineError as error:
            say(f"those that the tests find, for there are no containers: {error}")
            yield {}
        else:
            say("those of test/docker-compose.yaml")
            yield VARIABLES


def start_containers(cleanup: ExitStack) -> None:
    """Start the servers of the file, unless they run already. Raises NoEngineError."""
    if not compose("ps", "--quiet", limit_s=ANSWER_S):
        # Before the start: one that fails may have started some of them.
        cleanup.callback(compose, "down", "--volumes", limit_s=UP_S)
    compose("up", "--detach", "--wait", limit_s=UP_S)


def compose(*arguments: str, limit_s: float) -> str:
    """Run a command on the file, and return what it printed. Raises NoEngineError."""
    try:
        done = subprocess.run([*COMPOSE, *arguments], capture_output=True, text=True, timeout=limit_s)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise NoEngineError(str(error)) from error
    if done.returncode != 0:
        raise NoEngineError(" ".join(done.stderr.split())[-MAX_REASON_CHARS:])
    return done.stdout


def say(what: str) -> None:
    # At once: pytest writes to the same stream.
    print(f"servers: {what}", flush=True)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
