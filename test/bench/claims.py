"""What a payload of 20 MB costs, which lies in an object store: a node that takes and returns it, against the store."""

import os
import time
from functools import partial
from statistics import median

from runtime.bus.base import ConsumerConfig
from runtime.bus.claims import Claims
from runtime.bus.object_store import ObjectStoreConfig
from runtime.clock import SystemClock
from runtime.spec.claims import ClaimsSpec, claim_object, claims_store, letter_claims_store
from runtime.spec.node import NodeSpec
from runtime.wire import MAX_CLAIM_BYTES
from test.bench import payloads
from test.bench.driver_process import running
from test.bench.processes import Stage, start_node
from test.bench.report import Row
from test.bench.workbench import Workbench

SIZE_BYTES = 20_000_000
MESSAGES = 8
MB = 1e6


async def measure(bench: Workbench, rounds: int) -> list[Row]:
    """Send payloads through one node, and put and get as many bytes by the store alone, in turn."""
    through: list[float] = []
    alone: list[float] = []
    for _ in range(rounds):
        alone.append(await _store_alone(bench))
        through.append(await _through_node(bench))
    store = median(alone)
    return [
        Row(
            name="payload of 20 MB",
            who=who,
            value=median(measured),
            unit="MB/s",
            low=min(measured),
            high=max(measured),
            ratio=median(measured) / store if baseline else None,
            baseline=baseline,
        )
        for who, measured, baseline in (("node", through, "object store"), ("object store", alone, ""))
    ]


async def _through_node(bench: Workbench) -> float:
    """Return megabytes a second of a node that fetches each payload, and puts another one."""
    async with bench.chain(1) as [stage]:
        spec = ClaimsSpec(store=claims_store(stage.stream), room_bytes=MAX_CLAIM_BYTES)
        for store in (spec.store, letter_claims_store(stage.stream)):
            await bench.bus.ensure_object_store(ObjectStoreConfig(name=store))
        await _preload(bench, stage, spec)
        child = start_node(stage, bench.folder, handler="raw.py", spec=NodeSpec(durable=stage.durable, claims=spec))
        reader = bench.bus.reader(
            ConsumerConfig(stream=stage.stream, durable="end", filter_subjects=(stage.target,)), create=True
        )
        await reader.start()
        async with running(child):  # from when it is ready, for all of them are in work at once
            started_s = time.perf_counter()
            for _ in range(MESSAGES):
                reader.ack(await reader.take())
            took_s = time.perf_counter() - started_s
        await reader.close()
    return MESSAGES * SIZE_BYTES / took_s / MB


async def _preload(bench: Workbench, stage: Stage, spec: ClaimsSpec) -> None:
    claims = Claims(bench.bus, spec.store, SystemClock(), room_bytes=MAX_CLAIM_BYTES, max_bytes=MAX_CLAIM_BYTES)
    body = await claims.fit(
        payloads.envelope(os.urandom(SIZE_BYTES)),
        bench.bus.max_payload_bytes,
        partial(claim_object, stage.source, "in"),
    )
    await bench.preload(stage, body, MESSAGES)


async def _store_alone(bench: Workbench) -> float:
    """Return megabytes a second of getting objects, and putting as many."""
    await bench.bus.ensure_object_store(ObjectStoreConfig(name="alone"))
    store, data = await bench.bus.object_store("alone"), os.urandom(SIZE_BYTES)
    await store.put("first", data)
    started_s = time.perf_counter()
    for number in range(MESSAGES):
        await store.put(f"{number}", await store.get("first"))
    took_s = time.perf_counter() - started_s
    for name in await store.names():
        await store.delete(name)
    return MESSAGES * SIZE_BYTES / took_s / MB
