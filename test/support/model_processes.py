"""Model hosts as processes of their own, as a fleet starts them, and a coordinator that watches who is there."""

import asyncio
import contextlib
import json
import os
import signal
import sys
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from runtime.models import DynamicSubclassModelConcurrentRunner, ModelPredictResult, ModelRunner
from test.support.model_host import BASE, CLUSTER, PATIENCE_S, write_model

ROOT = Path(__file__).parents[2]


class HostProcess:
    """`python -m runtime model`, and its model's process."""

    def __init__(self, process: asyncio.subprocess.Process, log: Path) -> None:
        self.process = process
        self._log = log

    @property
    def log(self) -> str:
        return self._log.read_text()

    def send(self, number: signal.Signals) -> None:
        """Send a signal to the host alone; its model goes on unless the host ends."""
        self.process.send_signal(number)

    def send_to_model(self, number: signal.Signals) -> None:
        os.kill(self._model_pid(), number)

    async def exit_code(self) -> int:
        async with asyncio.timeout(PATIENCE_S):
            return await self.process.wait()

    def _model_pid(self) -> int:
        children = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children").read_text().split()
        [pid] = [int(each) for each in children if b"worker_child" in Path(f"/proc/{each}/cmdline").read_bytes()]
        return pid


class Cluster:
    """Hosts and coordinators on one server; all of them are ended with it."""

    def __init__(self, server: str, folder: Path) -> None:
        """server: its address, which may hold a user for the hosts."""
        self.server = server
        self._folder = folder
        self._hosts: list[HostProcess] = []
        self._coordinators: list[Coordinator] = []

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for coordinator in self._coordinators:
            await coordinator.runner.close()
        for host in self._hosts:
            with contextlib.suppress(ProcessLookupError):
                host.process.kill()
            await host.process.wait()
            print(host.log)

    async def host(self, model_id: str, model: str = "", **told: Any) -> HostProcess:
        """Start a host, and do not wait for it. model: text of its module. told: more of its spec."""
        number = len(self._hosts)
        folder = self._folder / f"{model_id}-{number}"
        folder.mkdir()
        spec = {**(write_model(folder, model) if model else write_model(folder)), "model_id": model_id, **told}
        environment = {name: value for name, value in os.environ.items() if not name.startswith("KRT_")}
        log = folder / "host.log"
        with log.open("wb") as output:
            process = await asyncio.create_subprocess_exec(
                sys.executable, "-m", "runtime", "model", cwd=ROOT, stdout=output, stderr=output,
                env={**environment, "KRT_NATS_SERVER": self.server, "KRT_MODEL_SPEC": json.dumps(spec, default=str)},
            )  # fmt: skip
        self._hosts.append(HostProcess(process, log))
        return self._hosts[-1]

    async def coordinator(self, *model_ids: str, **options: Any) -> "Coordinator":
        """Start a coordinator; return once it can call all these models. options: of its class."""
        fields = {
            "timeout": 10.0, "crunch_id": CLUSTER, "base_classname": BASE, "servers": [self.server], **options,
        }  # fmt: skip
        coordinator = Coordinator(DynamicSubclassModelConcurrentRunner(**fields))
        self._coordinators.append(coordinator)
        await coordinator.runner.init()
        if model_ids:
            await coordinator.until_running(*model_ids)
        return coordinator


class Coordinator:
    """A coordinator whose joins and leaves can be waited for."""

    def __init__(self, runner: DynamicSubclassModelConcurrentRunner) -> None:
        self.runner = runner
        self.joined: list[ModelRunner] = []
        self._changed = asyncio.Event()
        runner.model_cluster.on_join = self._on_join
        runner.model_cluster.on_leave = lambda _: self._changed.set()

    def _on_join(self, model: ModelRunner) -> None:
        self.joined.append(model)
        self._changed.set()

    def model(self, model_id: str = "m1") -> ModelRunner:
        return self.runner.model_cluster.models_run[model_id]

    async def until_running(self, *model_ids: str) -> None:
        """Return once exactly these models can be called."""
        async with asyncio.timeout(PATIENCE_S):
            while set(self.runner.model_cluster.models_run) != set(model_ids):
                self._changed.clear()
                await self._changed.wait()

    async def until_joined(self, count: int) -> None:
        """Return once so many runners have become callable, one after the other or beside each other."""
        async with asyncio.timeout(PATIENCE_S):
            while len(self.joined) < count:
                self._changed.clear()
                await self._changed.wait()

    async def until_busy(self, model_id: str = "m1") -> None:
        """Return once the model works on a call; its host tells that to nobody who does not ask."""
        model = self.model(model_id)
        async with asyncio.timeout(PATIENCE_S):
            while not (await model.health()).busy_for_ms:
                pass

    async def call(self, method: str, *args: Any, **options: Any) -> dict[str, ModelPredictResult]:
        """Call all models; return the results by model id."""
        results = await self.runner.call(method, args=args, **options)
        return {model.model_id: result for model, result in results.items()}

    async def do(self, deed: str, **options: Any) -> dict[str, ModelPredictResult]:
        """Have all models do one of the deeds of their class."""
        return await self.call("do", deed, **options)


def told(results: dict[str, ModelPredictResult]) -> dict[str, tuple[str, str]]:
    """Return status and reason by model id; the reason of a success is ""."""
    return {model_id: (each.status.value, each.detail.partition(":")[0]) for model_id, each in results.items()}
