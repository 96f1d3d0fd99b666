"""The MQTT source on a real broker, which a nats-server is: what was not done comes again."""

import asyncio
from collections.abc import Callable
from typing import Any

import aiomqtt

from runtime.bus.embedded import EmbeddedServer
from runtime.drivers.flow import Item, NotConnected, Sink
from runtime.drivers.sinks.collect import CollectSink
from runtime.drivers.source_sink import SourceSinkDriver
from runtime.drivers.sources.mqtt import MqttSource
from test.support.drivers import echo_workflow, hosted
from test.support.ports import free_port


class Away(Sink):
    """A sink that is never there."""

    def __init__(self) -> None:
        super().__init__()
        self.asked = asyncio.Event()

    async def write(self, outputs: Any, item: Item) -> None:
        self.asked.set()
        raise NotConnected("away")


def driver_of(port: int, sink: Sink) -> SourceSinkDriver:
    driver = SourceSinkDriver()
    driver.add_source("in", MqttSource(host="127.0.0.1", port=port, topics=["t/#"]))
    driver.add_sink("out", sink)
    return driver


async def test_a_message_that_was_not_done_comes_again_and_one_that_was_does_not(
    start_nats_server: Callable[..., EmbeddedServer],
) -> None:
    port = free_port()
    # The broker delivers again when a session has been back for so long without acknowledging.
    start_nats_server(server_name="broker", mqtt={"listen": f"127.0.0.1:{port}", "ack_wait": "1s"})
    first, second, third = CollectSink(), Away(), CollectSink()

    async with echo_workflow() as bus:
        async with hosted(lambda: driver_of(port, first), bus), asyncio.timeout(10):
            async with aiomqtt.Client("127.0.0.1", port, identifier="sender") as client:
                while not first.outputs:
                    await client.publish("t/a", "1", qos=1)
                    await asyncio.sleep(0.05)
        done = len(first.outputs)
        async with aiomqtt.Client("127.0.0.1", port, identifier="sender") as client:
            await client.publish("t/b", "2", qos=1)  # while nobody listens

        async with hosted(lambda: driver_of(port, second), bus), asyncio.timeout(20):
            await second.asked.wait()
        async with hosted(lambda: driver_of(port, third), bus), asyncio.timeout(20):
            await third.wait(1)
            await asyncio.sleep(0.2)

    assert first.outputs == [1] * done
    assert third.outputs[-1:] == [2]
    assert third.outputs.count(2) == 1
