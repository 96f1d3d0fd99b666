"""A process of a deployed workflow as data: what to run, what has become of it, and when it is started again.

Pure values and decisions; the plan makes a `Process`, the supervisor (or compose, or Kubernetes) runs it.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import TextIO

from runtime.children import describe_exit as describe_exit
from runtime.spec.resources import ProcessResources

# Exit code of a process whose configuration is wrong. Starting it again gives the same error.
CONFIGURATION_EXIT_CODE = 2


class Readiness(StrEnum):
    """How it is known that a process does its work."""

    # It says so itself, by the protocol in supervisor.py.
    SIGNALLED = "signalled"
    # Nothing is told: a process that runs counts as good.
    STARTED = "started"


@dataclass(frozen=True, slots=True, kw_only=True)
class RestartPolicy:
    """When a process that has ended is started again. All times in seconds."""

    # Doubles with every end, up to the maximum.
    first_delay_s: float = 0.2
    max_delay_s: float = 30.0
    # A process that lived this long starts with a clean record.
    healthy_after_s: float = 30.0
    # So many ends within the window are a crash loop.
    crash_loop_exits: int = 5
    crash_loop_window_s: float = 60.0
    # Whether a crash loop is the end, and not tried any more.
    gives_up: bool = False
    # Ends that another start would only repeat.
    final_exit_codes: frozenset[int] = frozenset({CONFIGURATION_EXIT_CODE})


@dataclass(frozen=True, slots=True, kw_only=True)
class Process:
    """One kind of process of a workflow, in one or more replicas.

    arguments: what follows `python -m runtime`. environment: added to the supervisor's own; it may hold secrets.
    stage: lower stages start first and end last; the processes of a stage start and end together.
    may_end: exit code 0 is its end for good; every other process is started again whenever it ends.
    policy: when it is started again, None for the supervisor's own. resources: of each replica.
    secrets: the variables of the environment that hold one, each with where a cluster keeps it, `secret/key` or "".
    image: of its container, "" for the deployment's.
    """

    name: str
    arguments: tuple[str, ...]
    environment: Mapping[str, str] = field(default_factory=dict, repr=False)
    replicas: int = 1
    ready: Readiness = Readiness.SIGNALLED
    stage: int = 0
    may_end: bool = False
    policy: RestartPolicy | None = None
    resources: ProcessResources = field(default_factory=ProcessResources)
    secrets: Mapping[str, str] = field(default_factory=dict)
    image: str = ""

    def replica_names(self) -> list[str]:
        """Return the names that people see: the process's own, or `score/1`, `score/2` when there are several."""
        if self.replicas == 1:
            return [self.name]
        return [f"{self.name}/{number}" for number in range(1, self.replicas + 1)]


class State(StrEnum):
    """What a replica is doing."""

    STARTING = "starting"
    READY = "ready"
    # Alive, of a kind that does not tell when it is ready.
    RUNNING = "running"
    # Ended, and waits for its next start.
    BACKOFF = "backoff"
    # Ended again and again; it is still tried, slowly.
    CRASH_LOOPING = "crash-looping"
    # Given up by its policy, or said itself that it cannot work; it waits for a restart by hand.
    FAILED = "failed"
    STOPPED = "stopped"


# States of a process that does its work, as far as is known.
WORKING = (State.READY, State.RUNNING)


@dataclass(frozen=True, slots=True, kw_only=True)
class ReplicaStatus:
    """One replica at one moment.

    last_exit: exit code, or minus the signal's number; None before the first end. last_error: in one line why it does
    not work, as it said itself or how it ended; "" while it works, and before its first end.
    """

    name: str
    process: str
    state: State
    pid: int | None
    restarts: int
    last_exit: int | None
    last_error: str = ""

    @property
    def works(self) -> bool:
        return self.state in WORKING


class RestartRecord:
    """The ends of one replica, and what follows from them."""

    def __init__(self, policy: RestartPolicy) -> None:
        self.policy = policy
        self.crash_looping = False
        self._exits_s: list[float] = []
        self._delay_s = policy.first_delay_s

    def note_exit(self, *, at_s: float, lived_s: float) -> float:
        """Record an end, and return the seconds until the next start. at_s: monotonic time."""
        policy = self.policy
        if lived_s >= policy.healthy_after_s:
            self.forget()
        self._exits_s = [*(exit_s for exit_s in self._exits_s if exit_s > at_s - policy.crash_loop_window_s), at_s]
        if len(self._exits_s) >= policy.crash_loop_exits:
            self.crash_looping = True
        if self.crash_looping:
            return policy.max_delay_s
        delay_s = self._delay_s
        self._delay_s = min(delay_s * 2, policy.max_delay_s)
        return delay_s

    def forget(self) -> None:
        """Start with a clean record."""
        self.crash_looping = False
        self._exits_s = []
        self._delay_s = self.policy.first_delay_s


class LinePrinter:
    """Writes the lines of several processes to one stream, each under its padded name: `score/1 | text`."""

    # ANSI foregrounds that are readable on light and on dark ground.
    COLOURS = (36, 33, 32, 35, 34, 96, 93, 92, 95, 94)

    def __init__(self, stream: TextIO, names: list[str], *, colour: bool) -> None:
        self._stream = stream
        width = max(map(len, names), default=0)
        self._prefixes = {name: self._prefix(name.ljust(width), number, colour) for number, name in enumerate(names)}

    def __call__(self, name: str, line: str) -> None:
        prefix = self._prefixes.get(name) or f"{name} | "
        self._stream.write(f"{prefix}{line}\n")
        self._stream.flush()

    def _prefix(self, padded_name: str, number: int, colour: bool) -> str:
        if not colour:
            return f"{padded_name} | "
        return f"\x1b[{self.COLOURS[number % len(self.COLOURS)]}m{padded_name} |\x1b[0m "
