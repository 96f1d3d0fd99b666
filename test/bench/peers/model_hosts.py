"""Many model hosts in one process, each with its own connection and its model in a process of its own.

python -m test.bench.peers.model_hosts '{"server": …, "cluster": …, "code": …, "models": {"m0": {"BENCH_PACE": "0.5"}}}'
"""

import asyncio
import json
import sys
from pathlib import Path

import uvloop

from runtime.bus.nats import NatsBus
from runtime.clock import SystemClock
from runtime.models.host import ModelHost
from runtime.spec.model_host import ModelHostSpec
from test.bench.peers.place import until_terminated


async def serve(server: str, cluster: str, code: str, models: dict[str, dict[str, str]]) -> None:
    """Keep a host for each model id, whose model has these variables, until cancelled."""
    async with asyncio.TaskGroup() as group:
        for model_id, environment in models.items():
            spec = ModelHostSpec(cluster=cluster, model_id=model_id, code=Path(code), environment=environment)
            group.create_task(keep(server, spec))


async def keep(server: str, spec: ModelHostSpec) -> None:
    bus = await NatsBus.connect([server], name=spec.model_id)
    stop = asyncio.Event()
    running = asyncio.create_task(ModelHost(spec, bus, SystemClock()).run(stop))
    try:
        await asyncio.shield(running)
    finally:
        stop.set()
        await running
        await bus.close()


if __name__ == "__main__":
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(until_terminated(serve(**json.loads(sys.argv[1]))))
