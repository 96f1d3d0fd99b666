"""Measured processes: started, waited for, looked at through /proc, and stopped. Linux only, as /proc is."""

import asyncio
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from runtime.children import die_with_parent
from runtime.spec.node import NodeSpec
from test.bench.peers.place import Place

ROOT = Path(__file__).parents[2]
HANDLERS = Path(__file__).parent / "handlers"

# Seconds until a process has to be ready, and until one that was told to end is killed.
READY_TIMEOUT_S = 30.0
STOP_TIMEOUT_S = 30.0
# Unit of the CPU times in /proc/<pid>/stat.
TICKS_PER_S = os.sysconf("SC_CLK_TCK")
# Bytes at the end of a process's output that an error quotes.
LOG_TAIL_BYTES = 4_000


class BenchError(Exception):
    """A measurement could not be taken, or what it measured lost or repeated a message."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Stage:
    """One stage of a chain, whoever runs it: takes from `source` through `durable`, publishes to `target`."""

    server: str
    stream: str
    node: str
    durable: str
    source: str
    target: str
    is_last: bool


class Child:
    """A running process that says by one line on a pipe that it is ready."""

    def __init__(self, command: Sequence[str], environment: Mapping[str, str], log: Path, ready: int) -> None:
        """Start it; `ready` is this side of the pipe, whose other side is named by the command or the environment."""
        self._log = log
        self._ready = ready
        self._started_s = time.monotonic()
        other_side = int(environment["KRT_READY_FD"])
        with log.open("wb") as output:
            self._process = subprocess.Popen(
                command,
                cwd=ROOT,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                pass_fds=[other_side],
                preexec_fn=die_with_parent(),
            )
        os.close(other_side)

    async def wait_ready(self) -> float:
        """Return the seconds from the start to the ready line."""
        try:
            async with asyncio.timeout(READY_TIMEOUT_S):
                line = await asyncio.to_thread(os.read, self._ready, 64)
        except TimeoutError:
            line = b""
        took_s = time.monotonic() - self._started_s
        if not line:
            raise BenchError(f"a measured process did not become ready:\n{self.log_tail()}")
        return took_s

    def check_alive(self) -> None:
        if self._process.poll() is not None:
            raise BenchError(f"a measured process ended with {self._process.returncode}:\n{self.log_tail()}")

    def log_tail(self) -> str:
        return self._log.read_bytes()[-LOG_TAIL_BYTES:].decode(errors="replace")

    def cpu_s(self) -> float:
        """Return the processor time used so far, in the process and in the kernel for it."""
        return _cpu_s(self._process.pid)

    def family_cpu_s(self) -> float:
        """Return the same with that of the processes that it has started."""
        children = Path(f"/proc/{self._process.pid}/task/{self._process.pid}/children").read_text().split()
        return self.cpu_s() + sum(_cpu_s(int(pid)) for pid in children)

    def resident_bytes(self) -> int:
        """Return what of the process is in memory (VmRSS), shared libraries included."""
        return self._memory_bytes("status", "VmRSS")

    def proportional_bytes(self) -> int:
        """Return the same with shared pages divided among those that share them (PSS)."""
        return self._memory_bytes("smaps_rollup", "Pss")

    def _memory_bytes(self, file: str, field: str) -> int:
        for line in Path(f"/proc/{self._process.pid}/{file}").read_text().splitlines():
            if line.startswith(f"{field}:"):
                return int(line.split()[1]) * 1024
        raise BenchError(f"/proc/<pid>/{file} has no {field}")

    async def stop(self) -> None:
        """Let the process end by SIGTERM, by force after `STOP_TIMEOUT_S`."""
        os.close(self._ready)
        if self._process.poll() is None:
            self._process.send_signal(signal.SIGTERM)
        try:
            await asyncio.to_thread(self._process.wait, STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()


def _cpu_s(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / TICKS_PER_S


def start_node(
    stage: Stage,
    folder: Path,
    *,
    handler: str = "echo.py",
    spec: NodeSpec | None = None,
    profile: Path | None = None,
    program: str = "runtime",
) -> Child:
    """Start our node: the process that a deployed workflow runs.

    spec: of a node without a handler. profile: where cProfile's data shall go.
    """
    ready, other_side = os.pipe()
    spec = spec or NodeSpec(durable=stage.durable, exit_channel="main" if stage.is_last else None)
    store = f"sqlite:///{folder / 'store.sqlite'}"
    environment = clean_environment() | {
        "KRT_WORKFLOW_NAME": "bench",
        "KRT_VERSION_ID": "bench",
        "KRT_VERSION": "v1",
        "KRT_NODE_NAME": stage.node,
        "KRT_NATS_SERVER": stage.server,
        "KRT_NATS_INPUT": stage.source,
        "KRT_NATS_OUTPUT": stage.target,
        "KRT_NATS_STREAM": stage.stream,
        "KRT_NATS_MONGO_WRITER": "mongo_writer",
        "KRT_BASE_PATH": str(HANDLERS),
        "KRT_HANDLER_PATH": handler,
        "KRT_MONGO_URI": store,
        "KRT_INFLUX_URI": store,
        "KRT_NODE_SPEC": spec.model_dump_json(),
        "KRT_BATCH_DIR": str(folder / "runs"),
        "KRT_LOG_LEVEL": "WARN",
        "KRT_READY_FD": str(other_side),
    }
    profiler = ["-m", "cProfile", "-o", str(profile)] if profile else []
    command = [sys.executable, *profiler, "-m", program, "node"]
    return Child(command, environment, folder / f"{stage.stream}-{stage.node}.log", ready)


def start_peer(module: str, stage: Stage, folder: Path) -> Child:
    """Start one of the peers at the stage."""
    ready, other_side = os.pipe()
    place = Place(
        server=stage.server,
        stream=stage.stream,
        durable=stage.durable,
        source=stage.source,
        target=stage.target,
        replies=stage.is_last,
        ready_fd=other_side,
    )
    command = [sys.executable, "-m", f"test.bench.peers.{module}", json.dumps(asdict(place))]
    environment = clean_environment() | {"KRT_READY_FD": str(other_side)}
    return Child(command, environment, folder / f"{stage.stream}-{stage.node}.log", ready)


def start_writer(server: str, subject: str, uri: str, folder: Path) -> Child:
    """Start our writer: the process that a deployed workflow runs."""
    ready, other_side = os.pipe()
    environment = clean_environment() | {
        "KRT_NATS_SERVER": server,
        "KRT_NATS_MONGO_WRITER": subject,
        "KRT_MONGO_URI": uri,
        "KRT_LOG_LEVEL": "WARN",
        "KRT_READY_FD": str(other_side),
    }
    return Child([sys.executable, "-m", "runtime", "writer"], environment, folder / f"{subject}.log", ready)


def start_one_by_one_writer(server: str, subject: str, uri: str, folder: Path) -> Child:
    """Start the writer that works as KRE's does."""
    ready, other_side = os.pipe()
    command = [sys.executable, "-m", "test.bench.peers.one_by_one_writer", server, subject, uri, str(other_side)]
    environment = clean_environment() | {"KRT_READY_FD": str(other_side)}
    return Child(command, environment, folder / f"{subject}.log", ready)


def clean_environment() -> dict[str, str]:
    """Return this environment without variables that would configure a node."""
    return {name: value for name, value in os.environ.items() if not name.startswith("KRT_")}
