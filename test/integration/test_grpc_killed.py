"""A gRPC driver as a process that is killed: its clients hear of it at once, and nobody else does."""

import os
import signal
import time
from collections.abc import Callable
from pathlib import Path

import grpc
import pytest

from runtime.bus.embedded import EmbeddedServer
from runtime.drivers import GRPCDriver
from runtime.inference import init
from test.support.rpc import write_proto

WORKFLOW = """
name: slow
nodes: [{name: slow, handler: handler.py}]
"""

pytestmark = pytest.mark.attack

HANDLER = """
import asyncio
import pathlib

async def handler(ctx, data: dict) -> dict:
    if data.get("text") == "wait":
        pathlib.Path(ctx.path("began")).touch()
        await asyncio.sleep(5)
    return data
"""
# The message `Ask` with the text "wait", and with the text "hi".
WAIT, HI = b"\x0a\x04wait", b"\x0a\x02hi"
SOON_S = 30.0


def test_clients_of_a_killed_driver_hear_of_it_and_others_go_on(nats_server: EmbeddedServer, tmp_path: Path) -> None:
    proto = write_proto(tmp_path)
    (tmp_path / "workflow.yaml").write_text(WORKFLOW)
    (tmp_path / "handler.py").write_text(HANDLER)
    with init("nats", servers=nats_server.url, store=tmp_path / "store") as runtime:
        proc = runtime.start_inference(tmp_path)
        driver = proc.add_driver("rpc", GRPCDriver, str(proto), payload="json")
        wait_until(lambda: bool(driver.list_services()))
        killed, port = driver.record.os_pid, driver.get_service("grpc")["port"]
        with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
            waiting = method_of(channel).future(WAIT, timeout=SOON_S)
            wait_until((tmp_path / "began").exists)

            os.kill(killed, signal.SIGKILL)
            error = waiting.exception(timeout=2)
            by_hand = proc.predict({"text": "by hand"}).result(SOON_S)

        wait_until(lambda: driver.record.os_pid != killed and bool(driver.list_services()))
        with grpc.insecure_channel(f"127.0.0.1:{driver.get_service('grpc')['port']}") as channel:
            answer = method_of(channel)(HI, timeout=SOON_S)

    assert isinstance(error, grpc.RpcError) and error.code() is grpc.StatusCode.UNAVAILABLE
    assert (by_hand, answer) == ({"text": "by hand"}, HI)


def method_of(channel: grpc.Channel) -> "grpc.UnaryUnaryMultiCallable[bytes, bytes]":
    return channel.unary_unary("/echo.v1.Echo/Say")


def wait_until(condition: Callable[[], bool]) -> None:
    end_s = time.monotonic() + SOON_S
    while not condition():
        assert time.monotonic() < end_s, "it has not come"
        time.sleep(0.02)
