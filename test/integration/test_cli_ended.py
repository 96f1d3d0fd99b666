"""Commands on what a local run has left: they start a server on its store, alone, and end it however they end."""

import asyncio
import json
import os
import signal
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from runtime import errors
from runtime.bus import embedded
from runtime.bus.embedded import EmbeddedServer
from runtime.bus.nats import NatsBus
from runtime.cli import exits, target
from runtime.cli.main import main
from runtime.cli.run_file import FOLDER, LastRun, RunNode, RunWorkflow
from test.support.letters import STREAM, Flow, envelope

STORE = Path(FOLDER) / "nats"
# Seconds for a server to be started and stopped; each takes some 50 ms.
PATIENCE_S = 10.0


@dataclass(frozen=True, slots=True)
class Place:
    """A folder in which a run of `flow` has ended, with one dead letter of `score`, and commands in it."""

    folder: Path
    binary: Path
    capsys: pytest.CaptureFixture[str]
    monkeypatch: pytest.MonkeyPatch

    @property
    def store(self) -> Path:
        return self.folder / STORE

    def krt(self, *arguments: str) -> tuple[int, str, str]:
        """Return exit code, standard output and standard error."""
        self.monkeypatch.setattr(sys, "argv", ["krt", *arguments])
        with pytest.raises(SystemExit) as ended:
            main()
        printed = self.capsys.readouterr()
        return int(ended.value.code or 0), printed.out, printed.err

    def server(self) -> EmbeddedServer:
        return EmbeddedServer(self.store, binary=self.binary)

    def server_pid(self) -> int:
        """Return the process that had the store last."""
        return int((self.store / "nats-server.lock").read_text())

    async def leave(self) -> None:
        """Do what a run does to the store."""
        server = self.server()
        await server.start()
        bus = await NatsBus.connect([server.url], name="run")
        flow = await Flow(bus).open()
        await flow.send(envelope({"n": 7}))
        await flow.handle("audit")
        await flow.die(await flow.take("score"))
        await flow.close()
        await bus.close()
        await server.stop()

    async def take_redriven(self) -> bytes:
        """Return what `score` gets in the next run."""
        server = self.server()
        await server.start()
        bus = await NatsBus.connect([server.url], name="next run")
        flow = await Flow(bus).open()
        taken = await flow.handle("score")
        await flow.expect_nothing("audit")
        await flow.close()
        await bus.close()
        await server.stop()
        return taken.data


@pytest.fixture
def place(
    tmp_path: Path, nats_server_binary: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> Place:
    nodes = {name: RunNode(durable=f"{name}__entrypoint", replicas=1) for name in ("score", "audit")}
    flow = RunWorkflow(stream=STREAM, folder=str(tmp_path / "flow"), runtime="local", version="dev", nodes=nodes)
    LastRun(store=str(STORE), workflows={"flow": flow}).write(tmp_path)
    monkeypatch.chdir(tmp_path)
    made = Place(tmp_path, nats_server_binary, capsys, monkeypatch)
    asyncio.run(made.leave())
    return made


def is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def test_dead_letters_traces_and_messages_are_read_and_the_server_is_gone_afterwards(place: Place) -> None:
    told = f"no run of flow is alive; reading what the last one left in {place.store}\n"

    letters = place.krt("dlq", "ls", "--json")
    trace = place.krt("trace", "r1", "--json")
    messages = place.krt("peek", "entrypoint", "--json", "-w", "flow")

    assert [each[0] for each in (letters, trace, messages)] == [exits.OK] * 3
    assert [each[2] for each in (letters, trace, messages)] == [told] * 3
    assert (json.loads(letters[1])["id"], json.loads(trace[1])["roots"]) == (1, [1])
    assert json.loads(messages[1])["value"] == {"n": 7}
    assert not is_alive(place.server_pid())


def test_the_status_has_no_live_process_and_no_rate(place: Place) -> None:
    code, output, _ = place.krt("status", "--json")

    nodes = {node["node"]: node for node in json.loads(output)["flow"]["nodes"]}
    assert code == exits.OK
    assert {name: (node["planned"], node["live"], node["rate"]) for name, node in nodes.items()} == {
        "score": (1, [], None), "audit": (1, [], None),
    }  # fmt: skip
    assert nodes["score"]["dead_letters"] == 1


def test_a_redriven_letter_waits_for_the_next_run(place: Place) -> None:
    code, output, _ = place.krt("dlq", "redrive", "1")

    assert (code, output) == (exits.OK, "redriven 1\n")
    assert asyncio.run(place.take_redriven()) == envelope({"n": 7})


@pytest.mark.parametrize(
    "arguments",
    [("send", "flow", "{}"), ("peek", "score", "--follow"), ("status", "--watch"), ("runs", "cancel", "x")],
)
def test_what_needs_live_processes_is_told_to_start_them(place: Place, arguments: tuple[str, ...]) -> None:
    before = place.server_pid()

    code, output, told = place.krt(*arguments)

    assert (code, output) == (exits.UNAVAILABLE, "")
    assert "start it with `krt run DIR`" in told
    assert place.server_pid() == before


def test_a_store_that_another_server_has_is_left_to_it(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(embedded, "LOCK_TIMEOUT_S", 0.1)
    server = place.server()
    server.start_blocking()

    code, output, told = place.krt("dlq", "ls")

    assert (code, output) == (exits.UNAVAILABLE, "")
    assert told.startswith(f"krt: {place.store} is in use, by a run that is about to start or to end")
    assert server.is_running()
    assert place.server_pid() == server.pid
    server.stop_blocking()


def test_a_second_command_waits_for_the_server_of_the_first_one(place: Place) -> None:
    """A second server on the store would destroy it."""
    found = target.find_one(ended=True)

    async def both() -> tuple[int, int]:
        inside, enough = asyncio.Event(), asyncio.Event()

        async def first() -> int:
            async with target.connected(found, name="first"):
                pid = place.server_pid()
                inside.set()
                await enough.wait()
                return pid

        async def second() -> int:
            async with target.connected(found, name="second"):
                return place.server_pid()

        async with asyncio.timeout(PATIENCE_S), asyncio.TaskGroup() as group:
            one = group.create_task(first())
            await inside.wait()
            other = group.create_task(second())
            assert is_alive(place.server_pid())
            enough.set()
        return one.result(), other.result()

    first_pid, second_pid = asyncio.run(both())

    assert first_pid != second_pid
    assert not is_alive(first_pid)
    assert not is_alive(second_pid)


def raise_an_error() -> None:
    raise errors.BusError("lost")


def press_ctrl_c() -> None:
    os.kill(os.getpid(), signal.SIGINT)


@pytest.mark.parametrize(("end", "raised"), [(raise_an_error, errors.BusError), (press_ctrl_c, KeyboardInterrupt)])
def test_the_server_ends_with_an_error_and_with_ctrl_c(
    place: Place, end: Callable[[], None], raised: type[BaseException]
) -> None:
    found = target.find_one(ended=True)
    pids = []

    async def command() -> None:
        async with target.connected(found, name="command"):
            pids.append(place.server_pid())
            end()
            await asyncio.sleep(PATIENCE_S)

    with pytest.raises(raised):
        target.run(command)

    assert [is_alive(pid) for pid in pids] == [False]


def test_a_store_without_the_stream_of_the_workflow_says_so(place: Place) -> None:
    place.krt("clean", "--all", STREAM, "--yes", "--data")

    code, output, told = place.krt("dlq", "ls")

    assert (code, output) == (exits.UNAVAILABLE, "")
    assert f"there is no stream {STREAM} in {place.store}: start it with `krt run DIR`" in told
