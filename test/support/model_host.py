"""Real model hosts for tests: the host inside the test's process, the model in a process of its own."""

import asyncio
import json
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from runtime.bus.base import Bus, CoreMessage
from runtime.bus.bodies import pack, unpack
from runtime.bus.presence import PresenceSet, ServiceRecord
from runtime.clock import SystemClock
from runtime.models import wire
from runtime.models.host import ModelHost
from runtime.models.values import arguments_of, from_variant
from runtime.models.wire import HostRecord, HostState
from runtime.proto.models import CallRequest, CallResponse, ResetResponse, SetupRequest, SetupResponse
from runtime.spec import names
from runtime.spec.model_host import ModelHostSpec

CLUSTER = "bird-game"
MODEL_ID = "m1"
BASE = "game.tracker.Tracker"
# Seconds after which something that has to happen is taken for lost.
PATIENCE_S = 30.0

GAME = """
import abc

class Tracker(abc.ABC):
    @abc.abstractmethod
    def tick(self, payload): ...

    def predict(self):
        return 0
"""
# What most tests host: it counts, and does on request what models should not.
MODEL = """
import multiprocessing, os, subprocess, sys, time
from game.tracker import Tracker

class Model(Tracker):
    def __init__(self, start=0):
        print("constructed")
        self.count = start

    def tick(self, payload, **extra):
        self.count += 1
        return self.count

    def predict(self, horizon=1):
        return {"count": self.count, "horizon": horizon}

    def echo(self, value):
        return value

    def do(self, what):
        return getattr(self, "_" + what)()

    async def later(self):
        import asyncio
        await asyncio.sleep(0)
        return "awaited"

    def _raise(self): raise ValueError("no birds")
    def _exit(self): sys.exit(3)
    def _die(self): os._exit(3)
    def _hang(self): time.sleep(3600)
    def _spin(self): return pow(3, 2**4096, 2**65536 - 1)
    def _object(self): return object()
    def _print(self): print("tweet"); os.write(1, b"raw tweet\\n"); return "printed"
    def _pid(self): return os.getpid()
    def _environ(self): return dict(os.environ)
    def _hoard(self): return len(bytearray(4 << 30))
    def _large(self): return "x" * (3 << 20)
    def _fork(self): return "child" if os.fork() == 0 else "parent"
    def _nap(self): time.sleep(0.5); self.count += 1; return self.count
"""


def write_model(folder: Path, model: str = MODEL) -> dict[str, Any]:
    """Write the game's package and a model; return what their host is told."""
    game, code = folder / "lib" / "game", folder / "code"
    game.mkdir(parents=True, exist_ok=True)
    code.mkdir(exist_ok=True)
    (game / "tracker.py").write_text(GAME)
    (code / "model.py").write_text(model)
    return {
        "cluster": CLUSTER,
        "model_id": MODEL_ID,
        "code": code,
        "environment": {"PYTHONPATH": str(folder / "lib")},
    }


class Refused(Exception):
    """The host has refused a request; `code` is that of its service error."""

    def __init__(self, message: CoreMessage) -> None:
        super().__init__(message.headers[wire.ERROR_HEADER])
        self.code = int(message.headers[wire.ERROR_CODE_HEADER])


class HostClient:
    """Asks one host as a coordinator does, and watches what it tells of itself. deployment: "" watches every one."""

    def __init__(self, bus: Bus, deployment: str) -> None:
        self.bus = bus
        self.deployment = deployment
        self.states: list[str] = []
        self.record: HostRecord | None = None
        self._changed = asyncio.Event()

    def on_change(self, key: str, record: ServiceRecord | None) -> None:
        if self.deployment not in ("", key.rpartition(".")[2]):
            return
        self.record = HostRecord.of(key, record) if record is not None else None
        state = self.record.state if self.record is not None else "gone"
        if self.states[-1:] != [state]:
            self.states.append(state)
        self._changed.set()

    async def until(self, condition: Callable[[HostRecord], bool]) -> HostRecord:
        """Return what the host tells once the condition holds."""
        async with asyncio.timeout(PATIENCE_S):
            while self.record is None or not condition(self.record):
                self._changed.clear()
                await self._changed.wait()
        return self.record

    async def until_state(self, state: HostState) -> HostRecord:
        return await self.until(lambda record: record.state is state)

    async def until_gone(self) -> None:
        async with asyncio.timeout(PATIENCE_S):
            while self.states[-1:] != ["gone"]:
                self._changed.clear()
                await self._changed.wait()

    async def ask(self, action: str, data: bytes = b"", **headers: str) -> CoreMessage:
        """Return the answer. headers: `deadline`, `call_id` and others by their names. Raises Refused."""
        named = {"deadline": wire.DEADLINE_HEADER, "call_id": wire.CALL_ID_HEADER}
        message = await self.bus.request(
            names.model_subject(CLUSTER, MODEL_ID, self.deployment, action),
            data,
            timeout_s=PATIENCE_S,
            headers={named.get(name, name): value for name, value in headers.items()},
        )
        if wire.ERROR_CODE_HEADER in message.headers:
            raise Refused(message)
        return message

    async def ask_large(self, action: str, data: bytes, headers: dict[str, str]) -> bytes:
        """Ask with a body of any size, and return one. Raises Refused."""
        store = names.model_store(CLUSTER)
        body = await pack(self.bus, store, data)
        answer = await self.ask(action, body.data, **headers, **body.headers)
        return await unpack(self.bus, store, answer.data, answer.headers)

    async def tell(self, action: str, **values: Any) -> dict[str, Any]:
        """Ask for what has JSON in its answer."""
        answer: dict[str, Any] = json.loads((await self.ask(action, json.dumps(values).encode())).data)
        return answer

    async def set_up(self, base: str = BASE, *args: Any, **kwargs: Any) -> tuple[str, str]:
        """Return code and text of the status."""
        positional, keywords = arguments_of(args, kwargs)
        request = SetupRequest(className=base, instanceArguments=positional, instanceKwArguments=keywords)
        answer = await self.ask(wire.SETUP, request.SerializeToString())
        status = SetupResponse.FromString(answer.data).status
        return status.code, status.message

    async def reset(self) -> str:
        return str(ResetResponse.FromString((await self.ask(wire.RESET)).data).status.code)

    async def call(self, method: str, *args: Any, headers: dict[str, str] | None = None, **kwargs: Any) -> Any:
        """Return what the method returned, or code and text of another status than SUCCESS."""
        positional, keywords = arguments_of(args, kwargs)
        request = CallRequest(methodName=method, methodArguments=positional, methodKwArguments=keywords)
        response = CallResponse.FromString(await self.ask_large(wire.CALL, request.SerializeToString(), headers or {}))
        if response.status.code != wire.StatusCode.SUCCESS:
            return response.status.code, response.status.message
        return from_variant(response.methodResponse)

    async def do(self, what: str) -> Any:
        """Have the model do one of its deeds."""
        return await self.call("do", what)


def deadline_in(seconds: float) -> str:
    """Return the header's value of a deadline so many seconds from now."""
    return str(round((time.time() + seconds) * 1000))


class RunningHost(HostClient):
    """A host in this process, and its client. `exit_code` awaits its end."""

    def __init__(self, bus: Bus, host: ModelHost) -> None:
        super().__init__(bus, host.deployment)
        self.stop = asyncio.Event()
        self._running = asyncio.create_task(host.run(self.stop), name="host")

    async def exit_code(self) -> int:
        async with asyncio.timeout(PATIENCE_S):
            return await asyncio.shield(self._running)

    async def close(self) -> None:
        self.stop.set()
        await asyncio.gather(self._running, return_exceptions=True)


@asynccontextmanager
async def hosted(bus: Bus, client_bus: Bus, told: dict[str, Any]) -> AsyncIterator[RunningHost]:
    """Run a host and watch it; it may still be starting."""
    host = RunningHost(client_bus, ModelHost(ModelHostSpec(**told), bus, SystemClock()))
    keys = names.model_presence_keys(CLUSTER)
    present = await PresenceSet.open(client_bus, names.PRESENCE_BUCKET, keys, SystemClock(), on_change=host.on_change)
    try:
        yield host
    finally:
        await host.close()
        await present.close()
