"""The gRPC driver in the place of KRE's entrypoint: its variables, its file of subjects, its messages."""

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import grpc
import pytest

from runtime import settings
from runtime.bus.base import Confirmation, ConsumerConfig, ReaderClosed, StreamConfig
from runtime.bus.embedded import EmbeddedServer
from runtime.bus.nats import NatsBus
from runtime.clock import SystemClock
from runtime.drivers.grpc.kre import find_proto, read_views, run_entrypoint
from runtime.drivers.runner import DriverTerms
from runtime.errors import ConfigError
from test.support.kre import kre_message, public_message
from test.support.ports import free_port
from test.support.rpc import PATIENCE_S, RpcClient, write_proto

PROTO = """
syntax = "proto3";
package main;
message Request { string name = 1; }
message Response { string greeting = 1; }
service Entrypoint { rpc Greet(Request) returns (Response); rpc Leave(Request) returns (Response); }
"""
METHODS = ("Greet", "Leave")


def stream_of(method: str) -> str:
    return f"runtime1_v1_{method}"


def subjects(version: int) -> dict[str, Any]:
    """Return the file that KRE's manager writes."""
    if version == 1:
        return {method: f"{stream_of(method)}.node-a" for method in METHODS}
    return {
        method: {
            "stream": stream_of(method),
            "input_subject": f"{stream_of(method)}.exitpoint",
            "output_subject": f"{stream_of(method)}.entrypoint",
        }
        for method in METHODS
    }


class KreWorkflow:
    """A workflow as KRE's entrypoint sees it: reads requests, and answers where KRE's nodes do, with KRE's class.

    "nobody" is an error, "another" gets an answer of another type, "twice" two answers, "silent" none.
    """

    def __init__(self, bus: NatsBus, method: str, version: int) -> None:
        stream = stream_of(method)
        first, self._answers = ("node-a", "entrypoint") if version == 1 else ("entrypoint", "exitpoint")
        self.requests: list[Any] = []
        self._method = method
        self._version = version
        self._message = kre_message(version)
        self._answers = f"{stream}.{self._answers}"
        self._publisher = bus.publisher(stream)
        config = ConsumerConfig(stream=stream, durable="node-a", filter_subjects=(f"{stream}.{first}",))
        self._reader = bus.reader(config, create=True)
        self._task: asyncio.Task[None] | None = None

    async def __aenter__(self) -> "KreWorkflow":
        await self._reader.start()
        self._task = asyncio.create_task(self._work(), name=f"KRE's {self._method}")
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._task is not None
        await self._reader.close()
        await self._task
        await self._publisher.close()

    async def _work(self) -> None:
        while True:
            try:
                delivery = await self._reader.take()
            except ReaderClosed:
                return
            request = self._message.FromString(delivery.data)
            self.requests.append(request)
            name = public_message("Request").FromString(request.payload.value).name
            for number in range({"twice": 2, "silent": 0}.get(name, 1)):
                stored = Confirmation()
                answer = self._answer(request, name).SerializeToString()
                message_id = f"{delivery.sequence}.{number}"
                await self._publisher.publish(self._answers, answer, message_id=message_id, confirm=stored)
                await stored
            self._reader.ack(delivery)

    def _answer(self, request: Any, name: str) -> Any:
        answer = self._message()
        if self._version == 1:
            answer.tracking_id, answer.reply = request.tracking_id, request.reply
        else:
            answer.request_id, answer.from_node, answer.message_type = request.request_id, "node-a", 1
        if name == "nobody":
            answer.error = "nobody to greet"
            if self._version == 2:
                answer.message_type = 2
            return answer
        answer.payload.type_url = f"type.googleapis.com/main.{'Request' if name == 'another' else 'Response'}"
        answer.payload.value = public_message("Response")(greeting=f"{self._method} {name}!").SerializeToString()
        return answer


class Kre:
    """The entrypoint with a client, and the workflows behind."""

    def __init__(self, client: RpcClient, workflows: dict[str, KreWorkflow], bus: NatsBus) -> None:
        self.client = client
        self.workflows = workflows
        self.bus = bus


OpenKre = Callable[[int], Awaitable[Kre]]


@pytest.fixture
async def open_kre(nats_server: EmbeddedServer, tmp_path: Path) -> AsyncIterator[OpenKre]:
    async with AsyncExitStack() as stack:

        async def start(version: int) -> Kre:
            bus = await NatsBus.connect([nats_server.url], name="kre")
            stack.push_async_callback(bus.close)
            workflows = {}
            for method in METHODS:
                await bus.ensure_stream(StreamConfig(name=stream_of(method), subjects=(f"{stream_of(method)}.*",)))
                workflows[method] = await stack.enter_async_context(KreWorkflow(bus, method, version))
            files = tmp_path / "krt-files"
            files.mkdir()
            written = tmp_path / "subjects.json"
            written.write_text(json.dumps(subjects(version)))
            proto = write_proto(files, PROTO, "public_input.proto")
            variables = {
                "RUNTIME_ID": "runtime1", "VERSION_ID": "63a1f5", "VERSION": "v1", "WORKFLOW_NAME": "entrypoint",
                "NODE_NAME": "entrypoint", "NODE_ID": "entrypoint", "NATS_SERVER": nats_server.url,
                "NATS_SUBJECTS_FILE": str(written), "INFLUX_URI": "http://127.0.0.1:1", "REQUEST_TIMEOUT": "5",
                "BASE_PATH": str(files),
            }  # fmt: skip
            read = settings.read_driver({f"KRT_{name}": value for name, value in variables.items()})
            stop, terms = asyncio.Event(), DriverTerms(ports={"grpc": free_port()})
            running = asyncio.create_task(run_entrypoint(read, stop, terms=terms), name="entrypoint")
            stack.push_async_callback(lambda: running)
            stack.callback(stop.set)
            client = await stack.enter_async_context(RpcClient(proto, terms.ports["grpc"]))
            async with asyncio.timeout(PATIENCE_S):
                await client.channel.channel_ready()
            return Kre(client, workflows, bus)

        yield start


each_version = pytest.mark.parametrize("version", [1, 2])


@each_version
async def test_each_method_is_answered_by_its_workflow_of_kres(open_kre: OpenKre, version: int) -> None:
    kre = await open_kre(version)

    answers = await asyncio.gather(kre.client.call("Greet", name="Ada"), kre.client.call("Leave", name="Bob"))

    assert [answer.greeting for answer in answers] == ["Greet Ada!", "Leave Bob!"]


@each_version
async def test_of_many_calls_only_the_failing_ones_fail(open_kre: OpenKre, version: int) -> None:
    kre = await open_kre(version)
    names = [("nobody", "another", "twice", f"n{number}")[number % 4] for number in range(100)]

    ended = await asyncio.gather(*(kre.client.start("Greet", name=name) for name in names), return_exceptions=True)

    expected = {
        "nobody": "INTERNAL: nobody to greet",
        "another": "INTERNAL: main.Entrypoint/Greet returns main.Response, and the workflow answered main.Request",
    }
    assert [told(each) for each in ended] == [expected.get(name, f"Greet {name}!") for name in names]


def told(ended: Any) -> str:
    return f"{ended.code().name}: {ended.details()}" if isinstance(ended, grpc.aio.AioRpcError) else ended.greeting


@each_version
async def test_kres_nodes_can_read_all_that_a_request_holds(open_kre: OpenKre, version: int) -> None:
    kre = await open_kre(version)

    call = kre.client.start("Greet", name="Ada", metadata=(("krt-state-id", "cam-1"),))
    await call

    (request,) = kre.workflows["Greet"].requests
    request_id = dict(await call.trailing_metadata())["krt-request-id"]
    known = type(request).FromString(request.SerializeToString())
    known.DiscardUnknownFields()
    assert known == request
    assert request.payload.type_url == "type.googleapis.com/main.Request"
    if version == 1:
        assert (request.reply, [entry.node_name for entry in request.tracking]) == (request_id, ["entrypoint"])
    else:
        assert (request.request_id, request.from_node, request.message_type) == (request_id, "entrypoint", 1)


async def test_a_call_without_an_answer_ends_with_its_deadline_and_no_consumer_is_made(open_kre: OpenKre) -> None:
    kre = await open_kre(2)

    failure = await kre.client.failure("Greet", name="silent", timeout=0.5)

    assert failure.code is grpc.StatusCode.DEADLINE_EXCEEDED
    assert [state.name for state in await kre.bus.consumer_states(stream_of("Greet"))] == ["node-a"]


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("{", "is wrong at its start; expected by method a subject"),
        ("{}", "names no method"),
        ('{"Greet": {"stream": "a"}, "Leave": 5, "Fine": "a.b"}', "is wrong at Greet, Leave; expected"),
    ],
)
def test_a_faulty_file_of_subjects_is_told_with_its_places(tmp_path: Path, text: str, told: str) -> None:
    file = tmp_path / "subjects.json"
    file.write_text(text)

    with pytest.raises(ConfigError) as refused:
        read_views(file, "", SystemClock())

    assert f"KRT_NATS_SUBJECTS_FILE: {file} {told}" in str(refused.value)


def test_the_folder_has_one_proto_file(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"has to hold one \.proto file, and holds: none"):
        find_proto(tmp_path)
    proto = write_proto(tmp_path, PROTO, "any.proto")

    assert find_proto(tmp_path) == proto
