"""`krt run` as a user has it: processes of this machine that start, work, survive, and leave nothing behind."""

import asyncio
import json
import os
import queue
import re
import select
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from runtime.bus.embedded import EmbeddedServer
from runtime.cli import exits
from runtime.stores.base import Document
from runtime.stores.open import open_documents

ROOT = Path(__file__).parents[2]
TIMEOUT_S = 30.0

ECHO = "def handler(ctx, data: dict) -> dict:\n    return {'echo': data}\n"
SAVE = """
async def handler(ctx, data: dict) -> dict:
    await ctx.db.save("seen", data)
    return data
"""


class Run:
    """One `krt run`, its lines, and the processes that it has started."""

    def __init__(self, place: Path, *arguments: str) -> None:
        self.place = place
        self.lines: list[str] = []
        self._unread: queue.Queue[str] = queue.Queue()
        self.process = subprocess.Popen(
            [sys.executable, "-m", "runtime", "run", *arguments],
            cwd=place,
            env=environment(),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )
        self._reader = threading.Thread(target=self._read, name="lines of krt run", daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self._unread.put(line.rstrip("\n"))

    def wait_for(self, pattern: str) -> str:
        """Return the first line not seen yet that matches; fail when none comes."""
        deadline_s = time.monotonic() + TIMEOUT_S
        while True:
            try:
                line = self._unread.get(timeout=max(deadline_s - time.monotonic(), 0))
            except queue.Empty:
                pytest.fail(f"no line matches {pattern!r}:\n" + "\n".join(self.lines))
            self.lines.append(line)
            if re.search(pattern, line):
                return line

    def wait_for_end(self) -> int:
        try:
            code = self.process.wait(TIMEOUT_S)
        except subprocess.TimeoutExpired:
            self._read_rest()
            pytest.fail(f"it has not ended after {TIMEOUT_S:g} s:\n" + "\n".join(self.lines))
        self._reader.join(TIMEOUT_S)
        self._read_rest()
        return code

    def _read_rest(self) -> None:
        while not self._unread.empty():
            self.lines.append(self._unread.get())

    def stop(self, number: signal.Signals = signal.SIGINT) -> int:
        self.process.send_signal(number)
        return self.wait_for_end()

    def send(self, text: str, *options: str) -> subprocess.CompletedProcess[str]:
        return krt(self.place, "send", "flow", text, *options)

    def answer(self, text: str) -> Any:
        sent = self.send(text)
        assert sent.returncode == exits.OK, sent.stderr
        return json.loads(sent.stdout)

    def processes(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads((self.place / ".krt" / "processes.json").read_text())
        return found

    def pids(self) -> list[int]:
        """Every process of the run but its own: children in sessions of their own have it as their parent."""
        children = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children").read_text()
        return [int(pid) for pid in children.split()]

    def end(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()
        self._reader.join(TIMEOUT_S)
        assert self.process.stdout is not None
        self.process.stdout.close()


def environment() -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith("KRT_") or name.endswith("_BIN")}
    return {**kept, "PYTHONPATH": str(ROOT)}


def krt(place: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "runtime", *arguments],
        cwd=place,
        env=environment(),
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
    )


@pytest.fixture
def run(tmp_path: Path, nats_server_binary: Path) -> Iterator[Callable[..., Run]]:
    """Start `krt run flow` in the test's folder."""
    runs: list[Run] = []

    def start(*options: str) -> Run:
        runs.append(Run(tmp_path, "flow", *options))
        return runs[-1]

    yield start
    for each in runs:
        each.end()


@pytest.fixture
def flow(tmp_path: Path) -> Path:
    """The folder of the workflow `flow`, which has one node and echoes."""
    folder = tmp_path / "flow"
    folder.mkdir()
    write(folder, "nodes: [{name: echo, handler: echo.py}]", echo=ECHO)
    return folder


def write(folder: Path, nodes: str, **handlers: str) -> None:
    for name, source in handlers.items():
        (folder / f"{name}.py").write_text(source)
    (folder / "workflow.yaml").write_text(f"name: flow\n{nodes}\n")


def documents(place: Path) -> list[Document]:
    """Return what the workflow has saved in the collection `seen`."""

    async def find() -> list[Document]:
        store = open_documents(f"sqlite:///{place / '.krt' / 'data.db'}")
        found = await store.find("seen", {})
        await store.close()
        return found

    return asyncio.run(find())


def has_ended(pidfd: int) -> bool:
    """Say whether a process ends within the time limit; its pidfd becomes readable then."""
    return bool(select.select([pidfd], [], [], TIMEOUT_S)[0])


def test_a_workflow_runs_answers_and_stores(run: Callable[..., Run], flow: Path, tmp_path: Path) -> None:
    write(flow, "nodes: [{name: save, handler: save.py}, {name: echo, handler: echo.py}]", save=SAVE)
    started = run()
    ready = started.wait_for("^ready in ")

    answer = started.answer('{"n": 1}')

    assert answer == {"echo": {"n": 1}}
    assert re.fullmatch(r"ready in \d+\.\d s: krt send flow '…' .*", ready)
    assert {name: each["state"] for name, each in started.processes().items()} == dict.fromkeys(
        ["krt.manager", "krt.writer", "save", "echo"], "ready"
    )
    assert [(kept["n"], set(kept)) for kept in documents(tmp_path)] == [(1, {"_id", "n"})]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_stops_everything_in_order(
    number: signal.Signals, run: Callable[..., Run], flow: Path, tmp_path: Path
) -> None:
    started = run()
    started.wait_for("^ready in ")
    pidfds = [os.pidfd_open(pid) for pid in started.pids()]

    code = started.stop(number)

    assert code == exits.OK
    assert len(pidfds) == 4
    assert all(has_ended(pidfd) for pidfd in pidfds)
    assert "killed" not in "\n".join(started.lines)
    assert sorted(path.name for path in (tmp_path / ".krt").iterdir()) == ["last.json", "nats", "run.lock"]
    for pidfd in pidfds:
        os.close(pidfd)


def test_a_killed_run_leaves_no_process_behind(run: Callable[..., Run], flow: Path) -> None:
    started = run()
    started.wait_for("^ready in ")
    pidfds = [os.pidfd_open(pid) for pid in started.pids()]

    code = started.stop(signal.SIGKILL)

    assert code == -signal.SIGKILL
    assert len(pidfds) == 4
    assert all(has_ended(pidfd) for pidfd in pidfds)
    for pidfd in pidfds:
        os.close(pidfd)


def test_a_second_run_goes_on_where_a_killed_one_stopped(run: Callable[..., Run], flow: Path) -> None:
    write(
        flow,
        "nodes: [{name: gate, handler: gate.py, retry: {attempts: 100, first: 100ms, max: 100ms}}]",
        gate="import pathlib\n"
        "GATE = pathlib.Path(__file__).with_name('open')\n"
        "def handler(ctx, data: dict) -> dict:\n"
        "    if not GATE.exists():\n"
        "        raise RuntimeError('closed')\n"
        "    print('handled', data['n'])\n"
        "    return data\n",
    )
    first = run()
    first.wait_for("^ready in ")
    assert first.send('{"n": 17}', "--timeout", "1s").returncode == exits.TIMEOUT
    first.stop(signal.SIGKILL)
    (flow / "open").touch()

    second = run()

    assert second.wait_for("handled").endswith("| handled 17")
    assert second.answer('{"n": 18}') == {"n": 18}


def test_a_node_in_a_crash_loop_is_shown_and_the_rest_works(run: Callable[..., Run], flow: Path) -> None:
    crash = "import os\ndef init(ctx):\n    print('boom', flush=True)\n    os._exit(3)\n" + ECHO
    write(
        flow,
        "output: echo\nnodes: [{name: echo, handler: echo.py}, {name: loop, from: echo, handler: loop.py}]",
        loop=crash,
    )
    started = run()

    assert started.wait_for("the rest runs") == "the rest runs, but not yet: loop (backoff); see their lines above"
    started.wait_for("ERROR loop ended with exit code 3 as before; it does so again and again")
    assert len([line for line in started.lines if "boom" in line]) == 1

    assert started.answer('{"n": 1}') == {"echo": {"n": 1}}
    assert started.processes()["loop"]["state"] == "crash-looping"
    assert started.processes()["echo"] == {**started.processes()["echo"], "state": "ready", "restarts": 0}


def test_a_handler_that_cannot_be_imported_is_shown_and_the_rest_works(run: Callable[..., Run], flow: Path) -> None:
    write(
        flow,
        "output: echo\nnodes: [{name: echo, handler: echo.py}, {name: typo, from: echo, handler: typo.py}]",
        typo="import nothing_of_this_name\n" + ECHO,
    )
    started = run()

    assert "typo (failed)" in started.wait_for("the rest runs")

    assert "nothing_of_this_name" in "\n".join(started.lines)
    assert started.answer('{"n": 1}') == {"echo": {"n": 1}}


def test_problems_of_the_file_are_shown_with_their_places_and_nothing_starts(flow: Path, tmp_path: Path) -> None:
    write(flow, "nodes:\n  - {name: echo, handler: ech.py}\n  - {name: late, handler: echo.py, retries: 3}")

    done = krt(tmp_path, "run", "flow")

    assert done.returncode == exits.CONFIG
    assert re.findall(r"^flow/workflow\.yaml:(\d+):\d+: .*\[(.*)\]$", done.stderr, re.MULTILINE) == [
        ("3", "missing-file"),
        ("4", "unknown-key"),
    ]
    assert not (tmp_path / ".krt").exists()


def test_a_missing_secret_is_named_before_anything_starts(flow: Path, tmp_path: Path, nats_server_binary: Path) -> None:
    write(flow, "nodes: [{name: echo, handler: echo.py, secrets: [API_TOKEN]}]")

    done = krt(tmp_path, "run", "flow")

    assert (done.returncode, done.stderr) == (
        exits.CONFIG,
        'node "echo" needs the secret API_TOKEN, which is not set: export API_TOKEN before the start\n',
    )


def test_a_node_that_is_killed_comes_back(run: Callable[..., Run], flow: Path) -> None:
    started = run()
    started.wait_for("^ready in ")

    os.kill(started.processes()["echo"]["pid"], signal.SIGKILL)
    started.wait_for("echo ended with SIGKILL")
    started.wait_for(r"echo +\| .* ready")

    assert started.answer('{"n": 1}') == {"echo": {"n": 1}}
    assert started.processes()["echo"]["restarts"] == 1


def test_the_server_comes_back_with_its_data_when_it_crashes(run: Callable[..., Run], flow: Path) -> None:
    started = run()
    started.wait_for("^ready in ")
    (server,) = set(started.pids()) - {each["pid"] for each in started.processes().values()}

    os.kill(server, signal.SIGKILL)
    started.wait_for("ERROR the NATS server ended with SIGKILL and is started again")

    assert started.answer('{"n": 1}') == {"echo": {"n": 1}}
    started.wait_for("echo +.* NATS is back")
    assert started.stop() == exits.OK
    warned = [line.partition(" |")[0].rstrip() for line in started.lines if " WARN " in line and " | " in line]
    assert sorted(warned) == ["echo", "krt.manager", "krt.writer"]


def test_an_edit_of_a_handler_is_picked_up(run: Callable[..., Run], flow: Path) -> None:
    started = run("--reload")
    started.wait_for("^ready in ")
    manager = started.processes()["krt.manager"]

    (flow / "echo.py").write_text(ECHO.replace("'echo'", "'again'"))
    started.wait_for("^echo.py changed$")
    started.wait_for("^ready again$")

    assert started.answer('{"n": 1}') == {"again": {"n": 1}}
    assert started.processes()["krt.manager"] == manager


def test_an_edit_of_a_shared_module_restarts_the_nodes(run: Callable[..., Run], flow: Path) -> None:
    (flow / "shared.py").write_text("KEY = 'old'\n")
    write(
        flow,
        "nodes: [{name: echo, handler: echo.py}]",
        echo="from shared import KEY\ndef handler(ctx, data: dict) -> dict:\n    return {KEY: data}\n",
    )
    started = run("--reload")
    started.wait_for("^ready in ")

    (flow / "shared.py").write_text("KEY = 'renewed'\n")
    started.wait_for("^ready again$")

    assert started.answer('{"n": 1}') == {"renewed": {"n": 1}}


def test_a_faulty_edit_of_the_file_changes_nothing_and_a_good_one_adds_a_node(
    run: Callable[..., Run], flow: Path
) -> None:
    started = run("--reload")
    started.wait_for("^ready in ")

    write(flow, "nodes: [{name: echo, handler: nowhere.py}]")
    started.wait_for("^workflow.yaml changed, but has problems")
    before = started.answer('{"n": 1}')
    write(flow, "nodes: [{name: echo, handler: echo.py}, {name: twice, handler: echo.py}]")
    started.wait_for("^ready again$")

    assert "[missing-file]" in "\n".join(started.lines)
    assert before == {"echo": {"n": 1}}
    assert started.answer('{"n": 2}') == {"echo": {"echo": {"n": 2}}}


def test_the_demo_is_run_and_its_exit_code_is_that_of_the_run(run: Callable[..., Run], flow: Path) -> None:
    (flow / "demo.py").write_text(
        "import json, sys\nrun = json.load(open('.krt/run.json'))\nprint('demo of', *run['workflows'])\nsys.exit(7)\n"
    )

    started = run("--demo")

    assert started.wait_for_end() == 7
    assert started.lines[-1] == "demo of flow"
    assert " INFO " not in "\n".join(started.lines)


def test_another_server_can_be_used(run: Callable[..., Run], flow: Path, nats_server: EmbeddedServer) -> None:
    write(flow, "nodes: [{name: save, handler: save.py}]", save=SAVE)
    started = run("--nats", nats_server.url, "--store", "data", "--runtime", "shared")
    started.wait_for("^ready in ")

    answer = krt(started.place, "send", "any", '{"n": 1}', "--nats", nats_server.url, "--stream", "shared_dev_flow")

    assert (answer.returncode, json.loads(answer.stdout)) == (exits.OK, {"n": 1})
    assert len(started.pids()) == 3
    assert (started.place / "data" / "data.db").exists()


def test_a_second_run_in_the_same_folder_is_refused(run: Callable[..., Run], flow: Path, tmp_path: Path) -> None:
    started = run()
    started.wait_for("^ready in ")

    second = krt(tmp_path, "run", "flow")

    assert second.returncode == exits.CONFIG
    assert second.stderr.startswith(f"another `krt run` works in {tmp_path}")
    assert started.answer('{"n": 1}') == {"echo": {"n": 1}}


def test_a_second_ctrl_c_ends_a_handler_that_does_not_end(run: Callable[..., Run], flow: Path) -> None:
    write(
        flow,
        "nodes: [{name: slow, handler: slow.py}]",
        slow="import time\ndef handler(ctx, data: dict) -> dict:\n    print('begun')\n    time.sleep(600)\n",
    )
    started = run()
    started.wait_for("^ready in ")
    assert started.send('{"n": 1}', "--timeout", "500ms").returncode == exits.TIMEOUT
    started.wait_for("begun")

    started.process.send_signal(signal.SIGINT)
    started.wait_for("^stopping; Ctrl-C again ends it by force$")
    code = started.stop()

    assert code == exits.INTERRUPTED


def test_a_run_whose_output_nobody_reads_stops_in_order(flow: Path, tmp_path: Path, nats_server_binary: Path) -> None:
    reads, writes = os.pipe()
    process = subprocess.Popen(
        [sys.executable, "-m", "runtime", "run", "flow"],
        cwd=tmp_path,
        env=environment(),
        stdout=writes,
        stderr=subprocess.PIPE,
        start_new_session=True,
    )
    os.close(writes)
    os.read(reads, 1)
    os.close(reads)

    _, errors = process.communicate(timeout=TIMEOUT_S)

    assert (process.returncode, errors) == (exits.OK, b"")
