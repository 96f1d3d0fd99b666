"""What gRPC costs: a workflow of one node behind `GRPCDriver`, beside the bare call.

The callers share the machine with what they measure.
"""

import asyncio
import time
from statistics import quantiles
from typing import Any

import grpc
from google.protobuf import json_format, struct_pb2

from runtime.client import Workflow
from test.bench import payloads
from test.bench.driver_process import Call, alternate, driver, running
from test.bench.processes import start_node
from test.bench.report import Row, Target
from test.bench.workbench import Workbench

SIZE_BYTES = 200
IN_FLIGHT = 64
OVERHEAD = Target(bound=3.0, at_most=True)
PROTO = """
syntax = "proto3";
import "google/protobuf/struct.proto";
service Bench { rpc Call(google.protobuf.Struct) returns (google.protobuf.Struct); }
"""


async def measure(bench: Workbench, requests: int, seconds: float) -> list[Row]:
    """Send `requests` one after the other, then as many as go through in `seconds` with 64 in flight."""
    value = payloads.json_of_size(SIZE_BYTES)
    message = json_format.ParseDict(value, struct_pb2.Struct())
    proto = bench.folder / "bench.proto"
    proto.write_text(PROTO)
    async with (
        bench.chain(1) as [stage],
        running(start_node(stage, bench.folder)),
        driver(bench, stage, "grpc", proto=str(proto), payload="json") as port,
        grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel,
        Workflow(bench.bus, stage.stream) as workflow,
    ):
        method: grpc.aio.UnaryUnaryMultiCallable[Any, Any] = channel.unary_unary(
            "/Bench/Call", struct_pb2.Struct.SerializeToString, struct_pb2.Struct.FromString
        )

        async def bare() -> None:
            await workflow.predict(value)

        async def call() -> None:
            await method(message)

        times = await alternate({"workflow call": bare, "grpc driver": call}, requests)
        rate = await _rate(call, seconds)
    medians = {who: quantiles(measured, n=100)[49] for who, measured in times.items()}
    overhead = medians["grpc driver"] - medians["workflow call"]
    return [
        *(Row(name="gRPC, one request, p50", who=who, value=value, unit="ms") for who, value in medians.items()),
        Row(name="gRPC over the call, p50", who="grpc driver", value=overhead, unit="ms", target=OVERHEAD),
        Row(name=f"gRPC, {IN_FLIGHT} in flight", who="grpc driver", value=rate, unit="req/s"),
    ]


async def _rate(call: Call, seconds: float) -> float:
    """Return the calls a second with `IN_FLIGHT` of them at once."""
    started_s = time.perf_counter()

    async def keep_calling() -> int:
        count = 0
        while time.perf_counter() - started_s < seconds:
            await call()
            count += 1
        return count

    counts = await asyncio.gather(*(keep_calling() for _ in range(IN_FLIGHT)))
    return sum(counts) / (time.perf_counter() - started_s)
