"""One local run of a workflow, from the check of its file to the last process that ends. Made by `krt run`.

    check ─▶ NATS ─▶ processes, stage by stage ─▶ ready: .krt/run.json ─▶ … ─▶ stop: nodes, writer, manager, NATS

Everything that runs beside the supervisor is a task of one group: the record of states, the watch over NATS, the watch
over the folder, the demo. `stop` ends them all.
"""

import asyncio
import importlib.metadata
import logging
import operator
import os
import signal
import sys
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from runtime import log as logs
from runtime.bus.embedded import EmbeddedServer
from runtime.children import die_with_parent
from runtime.cli import exits
from runtime.cli.console import Console
from runtime.cli.driver_host import HostedWorkflow
from runtime.cli.local_drivers import LocalDrivers
from runtime.cli.local_nats import embedded_nats, keep_running
from runtime.cli.reload import changes
from runtime.cli.run_file import FOLDER, LastRun, ReplicaRecord, RunFile, RunNode, RunWorkflow, write_replicas
from runtime.cli.serving import end_processes, on_signals, only_one
from runtime.deploy.drivers import output_subjects, process_name
from runtime.deploy.gpus import GpuPool, asking_for_gpus, choose_gpus
from runtime.deploy.plan import MANAGER, Target, handler_versions, plan, runner_process_name
from runtime.deploy.process import CONFIGURATION_EXIT_CODE, Process, ReplicaStatus, State
from runtime.deploy.supervisor import Supervisor
from runtime.deploy.wiring import durable_of, stream_of
from runtime.errors import ConfigError, WorkflowError
from runtime.gpus import read_gpus
from runtime.settings import read_credentials_folder, redact
from runtime.spec import names
from runtime.spec.load import load_report
from runtime.spec.model import Workflow

log = logging.getLogger(__name__)

DEMO_FILE = "demo.py"
LOCK_FILE = "run.lock"
DATA_FILE = "data.db"
NATS_FOLDER = "nats"
# States that a process does not leave without an edit or a long wait.
DOWN = (State.FAILED, State.CRASH_LOOPING)


@dataclass(frozen=True, slots=True, kw_only=True)
class RunOptions:
    """What `krt run` was asked for. place: its `.krt/` tells other commands of the run. store: absolute.

    workflow: the one to run of a manifest with several. gpus: names of those to use, "" for all.
    """

    path: Path
    workflow: str
    place: Path
    store: Path
    nats: str
    runtime_id: str
    log_level: str
    reload: bool
    demo: bool
    gpus: str
    share_gpus: bool


def main(options: RunOptions) -> int:
    """Run until the end, and return the exit code. Raises ConfigError, ServerError."""
    # Not uvloop: children are started here, and nothing else that would be worth it happens on this loop.
    return asyncio.run(LocalRun(options).run())


class LocalRun:
    """The processes of one workflow, and what is said about them."""

    def __init__(self, options: RunOptions) -> None:
        self._options = options
        self._stop = asyncio.Event()
        self._force = asyncio.Event()
        self._console = Console(on_closed=self._stop.set)
        self._exit_code = exits.OK
        # None where NATS is not ours; and where it is, which is known once it runs.
        self._server: EmbeddedServer | None = None
        self._servers: tuple[str, ...] = ()
        self._gpus = GpuPool(sharing=options.share_gpus)
        self._said_of_gpus = ""
        self._workflow = self._load()

    async def run(self) -> int:
        logs.configure(level="DEBUG" if self._options.log_level == "DEBUG" else "WARN", stream=sys.stdout)
        self._started_s = asyncio.get_running_loop().time()
        await self._check_gpus(self._workflow)
        place = self._options.place
        refusal = f"another `krt run` works in {place}: stop that one, or start in another folder"
        with only_one(place / FOLDER / LOCK_FILE, refusal), on_signals(self._on_signal):
            async with self._nats(), self._processes() as supervisor:
                async with self._background(supervisor):
                    await self._stop.wait()
                if await end_processes(supervisor, self._force):
                    self._exit_code = exits.INTERRUPTED
        return self._exit_code

    # --- the parts of a run ---

    def _load(self) -> Workflow:
        """Return the checked workflow; its warnings are shown. Raises WorkflowError with every problem."""
        loaded = load_report(self._options.path, workflow=self._options.workflow, check_handlers=True)
        if loaded.workflow is None:
            raise WorkflowError(loaded.report.problems)
        for problem in loaded.report.problems:
            self._console.say(str(problem))
        demo = loaded.workflow.folder / DEMO_FILE
        if self._options.demo and not demo.is_file():
            raise ConfigError(f"--demo: {demo} does not exist; write one, or leave --demo out")
        return loaded.workflow

    def _plan(self, workflow: Workflow) -> list[Process]:
        """Raises ConfigError."""
        data = f"sqlite:///{self._options.store / DATA_FILE}"
        stream = stream_of(workflow, self._options.runtime_id)
        target = Target(
            nats_servers=self._servers,
            mongo_uri=data,
            influx_uri=data,
            base_path=str(workflow.folder.absolute()),
            runtime_id=self._options.runtime_id,
            # A shared server has other runs on it, and their writers have other files.
            writer_subject=names.writer_subject(stream) if self._options.nats else names.WRITER_SUBJECT,
            log_level=self._options.log_level,
            handler_versions=handler_versions(workflow),
            environment=os.environ,
        )
        processes = plan(workflow, target)
        return plan(workflow, replace(target, credentials=_credentials(processes, stream)))

    async def _check_gpus(self, workflow: Workflow) -> None:
        """Look for GPUs when something asks for them for the first time, and see if they do. Raises ConfigError."""
        processes = self._plan(workflow)
        if self._gpus.found is None and (self._options.gpus or asking_for_gpus(processes)):
            self._gpus.found = choose_gpus(await read_gpus(), self._options.gpus)
        self._gpus.check(processes)

    def _hosted(self) -> HostedWorkflow:
        workflow = self._workflow
        stream = stream_of(workflow, self._options.runtime_id)
        return HostedWorkflow(
            name=workflow.name,
            stream=stream,
            output_subjects=output_subjects(workflow, stream),
            nats_servers=self._servers,
            folder=str(workflow.folder.absolute()),
            environment={"KRT_LOG_LEVEL": self._options.log_level},
        )

    @asynccontextmanager
    async def _nats(self) -> AsyncIterator[None]:
        self._options.store.mkdir(parents=True, exist_ok=True)
        if self._options.nats:
            self._servers = tuple(self._options.nats.split(","))
            yield
            return
        async with embedded_nats(self._options.store / NATS_FOLDER) as self._server:
            self._servers = (self._server.url,)
            yield

    @asynccontextmanager
    async def _processes(self) -> AsyncIterator[Supervisor]:
        """Prepare the supervisor; leaving the block, whatever happened in it, ends every process."""
        processes = self._plan(self._workflow)
        self._console.name_processes([name for process in processes for name in process.replica_names()])
        self._say_header(processes)
        RunFile.remove(self._options.place)
        try:
            async with Supervisor(on_line=self._console.line, command=process_command(), gpus=self._gpus) as supervisor:
                yield supervisor
        finally:
            RunFile.remove(self._options.place)

    @asynccontextmanager
    async def _background(self, supervisor: Supervisor) -> AsyncIterator[None]:
        """Do everything that goes on while the run lasts."""
        drivers = LocalDrivers(self._hosted(), supervisor, self._console.say)
        async with asyncio.TaskGroup() as group:
            tasks = [
                group.create_task(self._record_states(supervisor), name="states"),
                group.create_task(self._start(supervisor), name="start"),
                group.create_task(drivers.run(), name="drivers"),
            ]
            if self._server is not None:
                tasks.append(group.create_task(keep_running(self._server), name="nats"))
            if self._options.reload:
                tasks.append(group.create_task(self._reload(supervisor, drivers), name="reload"))
            else:
                tasks.append(group.create_task(self._end_without_manager(supervisor), name="manager"))
            yield
            for task in tasks:
                task.cancel()

    async def _start(self, supervisor: Supervisor) -> None:
        """Start everything, tell when it is ready, and run the demo if there is one."""
        await supervisor.start(self._plan(self._workflow))
        self._write_run_files()
        if not _all_work(supervisor.states()):
            self._console.say(f"the rest runs, but not yet: {_list_idle(supervisor.states())}; see their lines above")
        if self._options.demo:
            await self._demo(supervisor)
            return
        await supervisor.wait_until(_all_work)
        seconds = asyncio.get_running_loop().time() - self._started_s
        self._console.say(f"ready in {seconds:.1f} s: krt send {self._workflow.name} '…'   (Ctrl-C stops)")

    async def _end_without_manager(self, supervisor: Supervisor) -> None:
        """End the run once its manager has refused the workflow: no other process works without what it makes."""
        await supervisor.wait_until(lambda states: any(map(_has_refused, states)))
        self._console.say("the manager has given up, and nothing works without it: see its lines above")
        self._exit_code = exits.CONFIG
        self._stop.set()

    async def _record_states(self, supervisor: Supervisor) -> None:
        """Keep `.krt/processes.json` as the processes are."""
        while True:
            states = supervisor.states()
            write_replicas(self._options.place, {state.name: _record_of(state) for state in states})
            await supervisor.wait_until(partial(operator.ne, states))

    # --- demo ---

    async def _demo(self, supervisor: Supervisor) -> None:
        """Run demo.py once every process works; its end is the end of the run, with its exit code."""
        await supervisor.wait_until(lambda states: _all_work(states) or _is_down(states))
        if _all_work(supervisor.states()):
            self._exit_code = await self._run_demo()
        else:
            self._console.say(f"the demo needs every process: {_list_idle(supervisor.states())}")
            self._exit_code = exits.FAILED
        self._stop.set()

    async def _run_demo(self) -> int:
        """Run demo.py in the run's folder, where it finds `.krt/run.json`."""
        child = await asyncio.create_subprocess_exec(
            sys.executable,
            str((self._workflow.folder / DEMO_FILE).absolute()),
            cwd=self._options.place,
            start_new_session=True,
            preexec_fn=die_with_parent(signal.SIGKILL),
        )
        try:
            return await child.wait()
        finally:
            if child.returncode is None:
                child.kill()
                await child.wait()

    # --- reload ---

    async def _reload(self, supervisor: Supervisor, drivers: LocalDrivers) -> None:
        """Change the processes over to every edit that has no problems; drivers that were added go on running."""
        async for changed in changes(self._workflow.folder):
            loaded = load_report(self._options.path, workflow=self._options.workflow, check_handlers=True)
            shown = ", ".join(sorted(path.relative_to(self._workflow.folder).as_posix() for path in changed))
            for problem in loaded.report.problems:
                self._console.say(str(problem))
            if loaded.workflow is None:
                self._console.say(f"{shown} changed, but has problems: what was started before goes on running")
                continue
            try:
                await self._check_gpus(loaded.workflow)
                processes = _merged(self._plan(loaded.workflow), drivers.processes)
            except ConfigError as error:
                self._console.say(f"{shown} changed, but: {error}")
                continue
            self._console.say(f"{shown} changed")
            self._say_gpus(processes)
            await self._change_over(supervisor, loaded.workflow, processes, changed)

    async def _change_over(
        self, supervisor: Supervisor, workflow: Workflow, processes: Sequence[Process], changed: set[Path]
    ) -> None:
        handlers = {workflow.folder / file for node in workflow.nodes for file in node.code_files}
        before = {state.name: state.pid for state in supervisor.states()}
        self._workflow = workflow
        self._console.name_processes([name for process in processes for name in process.replica_names()])
        # The plan holds each handler's version, so that an edited handler makes a different process.
        await supervisor.update(processes)
        self._write_run_files()
        if any(path.suffix == ".py" and path not in handlers for path in changed):
            # A module that several share; which of them import it is not known.
            kept = [state.process for state in supervisor.states() if before.get(state.name) == state.pid]
            await _restart(supervisor, [name for name in _users_of_modules(workflow) if name in kept])
        if idle := _list_idle(supervisor.states()):
            self._console.say(f"not running: {idle}")
        else:
            self._console.say("ready again")

    # --- what is said ---

    def _say_header(self, processes: Sequence[Process]) -> None:
        where = redact(", ".join(self._servers))
        store = _short(self._options.store, self._options.place)
        kept = "" if self._server is None else f", kept in {store}/{NATS_FOLDER}"
        self._console.say(f"workflow  {self._workflow}")
        self._console.say(f"NATS      {where}{kept}")
        self._console.say(f"data      {store}/{DATA_FILE}")
        self._say_gpus(processes)
        if without_effect := describe_images(processes):
            self._console.say(without_effect)

    def _say_gpus(self, processes: Sequence[Process]) -> None:
        """Say which GPUs there are, or what does without; after an edit only what is new."""
        described = self._gpus.describe(processes)
        if described and described != self._said_of_gpus:
            self._console.say(described)
        self._said_of_gpus = described

    def _write_run_files(self) -> None:
        workflow, runtime_id = self._workflow, self._options.runtime_id
        nodes = {node.name: RunNode(durable=durable_of(node), replicas=node.replicas) for node in workflow.nodes}
        found = RunWorkflow(
            stream=stream_of(workflow, runtime_id),
            folder=str(workflow.folder.absolute()),
            runtime=runtime_id,
            version=workflow.version,
            nodes=nodes,
        )
        workflows, place = {workflow.name: found}, self._options.place
        RunFile(nats=",".join(self._servers), pid=os.getpid(), workflows=workflows).write(place)
        if self._server is not None:
            LastRun(store=_short(self._server.store, place), workflows=workflows).write(place)

    def _on_signal(self) -> None:
        """The first signal stops in order, the second by force."""
        if self._stop.is_set():
            self._force.set()
        else:
            self._console.say("stopping; Ctrl-C again ends it by force")
            self._stop.set()


def _credentials(processes: Sequence[Process], stream: str) -> dict[str, str]:
    """Return the credentials folders that processes have of their own, as `krt permissions` makes them."""
    folder = read_credentials_folder()
    if folder is None:
        return {}
    own = {process.name: folder / stream / process.name for process in processes}
    return {name: str(path) for name, path in own.items() if path.is_dir()}


def describe_images(processes: Sequence[Process]) -> str:
    """Return one line on the images of processes, which have no effect here; "" where there are none."""
    named = [process.name for process in processes if process.image]
    return f"image     has no effect on processes of this machine: {', '.join(named)}" if named else ""


def process_command() -> Sequence[str]:
    """Return how processes are started: `-P` keeps the current folder's modules from standing in for Python's own."""
    try:
        importlib.metadata.distribution("krt-runtime")
    except importlib.metadata.PackageNotFoundError:  # a source tree, found through the current folder
        return (sys.executable, "-m", "runtime")
    return (sys.executable, "-P", "-m", "runtime")


def _users_of_modules(workflow: Workflow) -> list[str]:
    """Return the processes that may import modules of the workflow's folder."""
    own_drivers = [process_name(driver.name) for driver in workflow.drivers if ":" in driver.type]
    runners = [runner_process_name(runner.name) for runner in workflow.algorithms]
    return [*(chain[0].name for chain in workflow.chains), *runners, *own_drivers]


def _merged(planned: Sequence[Process], added: Sequence[Process]) -> list[Process]:
    """Return the processes of a new plan and those that were added; of two with one name the added one runs."""
    names_added = {process.name for process in added}
    return [*(process for process in planned if process.name not in names_added), *added]


async def _restart(supervisor: Supervisor, processes: Sequence[str]) -> None:
    async with asyncio.TaskGroup() as group:
        for name in processes:
            group.create_task(supervisor.restart(name), name=f"restart {name}")
    await supervisor.wait_until(lambda states: not any(state.state is State.STARTING for state in states))


def _all_work(states: Sequence[ReplicaStatus]) -> bool:
    return all(state.works for state in states)


def _has_refused(state: ReplicaStatus) -> bool:
    """Say whether this is the manager, which says that it cannot work; after a crash of it the nodes go on."""
    return state.process == MANAGER and state.state is State.FAILED and state.last_exit == CONFIGURATION_EXIT_CODE


def _is_down(states: Sequence[ReplicaStatus]) -> bool:
    return any(state.state in DOWN for state in states)


def _list_idle(states: Sequence[ReplicaStatus]) -> str:
    return ", ".join(f"{state.name} ({state.state})" for state in states if not state.works)


def _record_of(state: ReplicaStatus) -> ReplicaRecord:
    return ReplicaRecord(state=state.state, pid=state.pid, restarts=state.restarts, last_error=state.last_error)


def _short(path: Path, folder: Path) -> str:
    """Return the path as people would write it in the folder."""
    return str(path.relative_to(folder)) if path.is_relative_to(folder) else str(path)
