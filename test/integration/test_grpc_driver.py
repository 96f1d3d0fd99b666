"""The gRPC driver on a port of this machine: every way in which a call can end, and none that touches another call."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.protobuf import descriptor_pb2, message_factory
from google.protobuf.descriptor_pool import DescriptorPool
from grpc_reflection.v1alpha import reflection_pb2  # type: ignore[import-untyped]  # has no types

from runtime.bus.base import Bus
from runtime.bus.embedded import EmbeddedServer
from runtime.bus.memory import MemoryBroker
from runtime.bus.nats import NatsBus
from runtime.clock import SystemClock
from runtime.drivers import DriverStartError, GRPCDriver
from runtime.drivers.base import DriverState
from runtime.drivers.grpc.health import HEALTH_SERVICE, NOT_SERVING, SERVING, add_health
from runtime.drivers.inference import WorkflowView
from runtime.drivers.runner import DriverRunner, DriverTerms, RestartPolicy
from runtime.errors import ConfigError
from test.support.answering_node import AnsweringNode, stream_config
from test.support.certificates import Authority
from test.support.drivers import STREAM, hosted
from test.support.ports import free_port
from test.support.rpc import PATIENCE_S, RpcClient, write_proto


@dataclass(frozen=True, slots=True)
class Served:
    """A running driver with a client of it, and the workflow behind."""

    client: RpcClient
    driver: DriverRunner
    node: AnsweringNode
    bus: Bus


UNAVAILABLE = grpc.StatusCode.UNAVAILABLE
# A valid one: gRPC itself drops any other.
TRACE = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"

Serve = Callable[..., Awaitable[Served]]


@pytest.fixture
async def serve(tmp_path: Path) -> AsyncIterator[Serve]:
    """Serve `PROTO`, or a file, over a workflow that answers; everything is stopped after the test."""
    async with AsyncExitStack() as stack:

        async def start(proto: Path | None = None, *, max_bytes: int = 0, **arguments: Any) -> Served:
            proto = proto or write_proto(tmp_path)
            broker = MemoryBroker(SystemClock())
            bus = broker.connect()
            await bus.ensure_stream(stream_config(STREAM, max_bytes=max_bytes))
            node = await stack.enter_async_context(AnsweringNode(broker.connect(), STREAM))
            driver = await stack.enter_async_context(hosted(lambda: GRPCDriver(proto, **arguments), bus))
            client = await stack.enter_async_context(RpcClient(proto, await port_of(driver)))
            return Served(client, driver, node, bus)

        yield start


async def port_of(driver: DriverRunner) -> int:
    """Return the port of a driver once it is listed."""
    listed = asyncio.Event()
    tell = driver.on_change

    def on_change() -> None:
        tell()
        if driver.services:
            listed.set()

    driver.on_change = on_change
    on_change()
    async with asyncio.timeout(PATIENCE_S):
        await listed.wait()
    return driver.services[0].port


# --- answers ---


async def test_a_message_reaches_the_handler_and_its_answer_the_client(serve: Serve) -> None:
    served = await serve()

    call = served.client.start("Say", text="hi", metadata=(("krt-state-id", "cam-1"), ("traceparent", TRACE)))
    answer = await call

    message = served.node.received[0]
    assert answer.text == "hi"
    assert (message.state_id, message.traceparent, dict(message.headers)) == ("cam-1", TRACE, {"method": "Say"})
    assert dict(await call.trailing_metadata()) == {"krt-request-id": message.request_id, "krt-outcome": "ok"}
    assert await call.code() is grpc.StatusCode.OK


async def test_handlers_get_and_return_json_where_the_driver_says_so(serve: Serve) -> None:
    served = await serve(payload="json")

    told = await served.client.call("Tell", text="hi")
    cleared = await served.client.call("Clear", nothing=True)

    assert told.text == "hi"
    assert cleared.DESCRIPTOR.full_name == "google.protobuf.Empty"


async def test_an_answer_of_another_type_is_an_error_with_both_types(serve: Serve) -> None:
    served = await serve()

    failure = await served.client.failure("Tell", text="hi")

    assert failure.code is grpc.StatusCode.INTERNAL
    assert failure.detail == "echo.v1.Echo/Tell returns echo.v1.Told, and the workflow answered echo.v1.Ask"
    assert failure.trailing["krt-outcome"] == "failed"


async def test_an_answer_without_a_payload_is_no_empty_message(serve: Serve) -> None:
    served = await serve(payload="json")

    failure = await served.client.failure("Say", nothing=True)

    assert failure.code is grpc.StatusCode.INTERNAL
    assert failure.detail.endswith("returns echo.v1.Ask, and the workflow answered nothing")


async def test_a_handlers_error_is_told_with_id_and_outcome(serve: Serve) -> None:
    served = await serve(payload="json")

    failure = await served.client.failure("Say", error="no such city")

    assert (failure.code, failure.detail) == (grpc.StatusCode.INTERNAL, "no such city")
    request_id = served.node.received[0].request_id
    assert failure.trailing == {"krt-request-id": request_id, "krt-outcome": "failed"}


async def test_an_error_of_any_length_keeps_its_status(serve: Serve) -> None:
    served = await serve(payload="json")

    failure = await served.client.failure("Say", error="\N{SNOWMAN}" * 10_000)

    assert failure.code is grpc.StatusCode.INTERNAL
    assert failure.detail.startswith("\N{SNOWMAN}" * 600)


async def test_bytes_that_are_no_message_are_refused_and_nothing_is_published(serve: Serve) -> None:
    served = await serve()

    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await served.client.send("/echo.v1.Echo/Say", b"\x0a\xff")

    assert refused.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert "echo.v1.Echo/Say takes echo.v1.Ask" in (refused.value.details() or "")
    assert (await served.bus.stream_state(STREAM)).last_sequence == 0


async def test_a_method_that_is_not_served_is_unimplemented(serve: Serve) -> None:
    served = await serve(services={"Echo": {"Say": "echo"}})

    failure = await served.client.failure("Tell", text="hi")

    assert failure.code is grpc.StatusCode.UNIMPLEMENTED


# --- sizes ---


async def test_a_request_above_the_drivers_limit_is_not_read(serve: Serve) -> None:
    served = await serve(max_message="1Ki")

    failure = await served.client.failure("Say", text="x" * 2_000)

    assert failure.code is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert served.node.received == []


async def test_a_request_larger_than_nats_takes_is_too_large(serve: Serve) -> None:
    served = await serve(max_message="16Mi")
    noise = "".join(chr(number * 2_654_435_761 % 50_000 + 100) for number in range(1_000_000))

    failure = await served.client.failure("Say", text=noise)

    assert failure.code is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert "exceeds maximum size" in failure.detail
    assert failure.trailing["krt-outcome"] == "too-large"


# --- time ---


async def test_a_request_has_the_clients_deadline(serve: Serve) -> None:
    served = await serve(payload="json")
    before_ms = SystemClock().time_ns() // 1_000_000

    await served.client.call("Say", text="hi", timeout=5)

    assert 0 < served.node.received[0].deadline_ms - before_ms <= 5_500


async def test_a_silent_workflow_ends_with_the_clients_deadline(serve: Serve) -> None:
    served = await serve(payload="json")

    failure = await served.client.failure("Say", silent=True, timeout=0.3)

    assert failure.code is grpc.StatusCode.DEADLINE_EXCEEDED


async def test_a_call_without_a_deadline_ends_with_the_drivers_timeout(serve: Serve) -> None:
    served = await serve(payload="json")
    served.driver.set_parameters({"timeout": "200ms"})

    failure = await served.client.failure("Say", silent=True, timeout=None)

    assert (failure.code, failure.detail) == (grpc.StatusCode.DEADLINE_EXCEEDED, "no answer within 0.2 s")
    assert failure.trailing["krt-outcome"] == "timeout"


async def test_a_client_that_cancels_makes_room_for_another(serve: Serve) -> None:
    served = await serve(payload="json")
    served.driver.set_parameters({"max_in_flight": 1})
    silent = served.client.start("Say", silent=True)
    await received(served.node, 1)
    busy = await served.client.failure("Say", text="second")

    silent.cancel()

    async with asyncio.timeout(PATIENCE_S):
        while (answer := await ending(served.client.start("Say", text="third"))) is None:
            pass
    assert (busy.code, busy.detail) == (
        grpc.StatusCode.RESOURCE_EXHAUSTED,
        "1 requests are in flight, as many as may be",
    )
    assert answer.text == "third"


async def received(node: AnsweringNode, count: int) -> None:
    async with asyncio.timeout(PATIENCE_S):
        while len(node.received) < count:  # noqa: ASYNC110 - no event tells of it
            await asyncio.sleep(0)


async def ending(call: "grpc.aio.UnaryUnaryCall[Any, Any]") -> Any:
    """Return the answer, None for an error."""
    try:
        return await call
    except grpc.aio.AioRpcError:
        return None


# --- the stream ---


async def test_a_full_stream_refuses_new_calls_at_once(serve: Serve) -> None:
    served = await serve(max_bytes=20_000)
    filling = [served.client.start("Say", text="x" * 9_000, timeout=1) for _ in range(5)]
    await asyncio.gather(*filling, return_exceptions=True)

    failure = await served.client.failure("Say", text="late")

    assert failure.code is grpc.StatusCode.UNAVAILABLE
    assert failure.detail == f"stream {STREAM} is full and takes nothing now"
    assert failure.trailing["krt-outcome"] == "unavailable"


# --- several workflows ---


async def test_each_method_of_an_entrypoint_reaches_the_workflow_of_its_name(serve: Serve, tmp_path: Path) -> None:
    text = """
        syntax = "proto3";
        message Text { string text = 1; }
        service Entrypoint { rpc Greet(Text) returns (Text); rpc Leave(Text) returns (Text); }
    """
    proto = write_proto(tmp_path, text, "public_input.proto")
    broker = MemoryBroker(SystemClock())
    async with AsyncExitStack() as stack:
        nodes = {}
        for name in ("Greet", "Leave"):
            stream = f"test_v1_{name}"
            await broker.connect().ensure_stream(stream_config(stream))
            nodes[name] = await stack.enter_async_context(AnsweringNode(broker.connect(), stream))
        view = WorkflowView(name="Greet", stream="test_v1_Greet")
        driver = await stack.enter_async_context(hosted(lambda: GRPCDriver(proto), broker.connect(), view=view))
        client = await stack.enter_async_context(RpcClient(proto, await port_of(driver)))

        answers = await asyncio.gather(client.call("Greet", text="hello"), client.call("Leave", text="bye"))

    assert [answer.text for answer in answers] == ["hello", "bye"]
    assert {name: [dict(message.headers) for message in node.received] for name, node in nodes.items()} == {
        "Greet": [{"method": "Greet"}],
        "Leave": [{"method": "Leave"}],
    }


# --- who is let in ---


async def test_calls_need_a_token_of_their_scope_and_health_checks_none(
    serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RPC_TOKEN", "run:secret read:curious")
    served = await serve(token_env="RPC_TOKEN")

    none = await served.client.failure("Say", text="hi")
    wrong = await served.client.failure("Say", text="hi", metadata=bearer("guessed"))
    other = await served.client.failure("Say", text="hi", metadata=bearer("curious"))
    answer = await served.client.call("Say", text="hi", metadata=bearer("secret"))

    assert [failure.code for failure in (none, wrong, other)] == [
        grpc.StatusCode.UNAUTHENTICATED,
        grpc.StatusCode.UNAUTHENTICATED,
        grpc.StatusCode.PERMISSION_DENIED,
    ]
    assert answer.text == "hi"
    assert await health(served.client) == SERVING


def bearer(token: str) -> tuple[tuple[str, str], ...]:
    return (("authorization", f"Bearer {token}"),)


async def test_tls_asks_clients_for_certificates_of_its_authority(tmp_path: Path) -> None:
    authority = Authority.make(tmp_path / "ca")
    own = authority.sign("client")
    proto, folder = write_proto(tmp_path), credentials_folder(tmp_path / "own", authority)
    trusted = authority.certificate.read_bytes()
    known = grpc.ssl_channel_credentials(trusted, own[1].read_bytes(), own[0].read_bytes())
    unknown = grpc.ssl_channel_credentials(trusted)

    async with hosted(lambda: GRPCDriver(proto, tls=folder)) as driver:
        port = await port_of(driver)
        async with RpcClient(proto, port, credentials=known) as client:
            answer = await client.call("Say", text="hi")
        async with RpcClient(proto, port, credentials=unknown) as client:
            refused = await client.failure("Say", text="hi")
        protocol = driver.services[0].protocol

    assert (answer.text, protocol) == ("hi", "grpcs")
    assert refused.code is grpc.StatusCode.UNAVAILABLE


def credentials_folder(folder: Path, authority: Authority) -> Path:
    folder.mkdir()
    certificate, key = authority.sign("server")
    for name, source in (("tls.crt", certificate), ("tls.key", key), ("ca.crt", authority.certificate)):
        (folder / name).write_bytes(source.read_bytes())
    return folder


def test_a_faulty_start_is_told_before_anything_listens(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    proto = write_proto(tmp_path)
    monkeypatch.delenv("RPC_TOKEN", raising=False)

    with pytest.raises(DriverStartError, match='payload is "yaml"; write any'):
        GRPCDriver(proto, payload="yaml")  # type: ignore[arg-type]  # what a workflow file may say
    with pytest.raises(DriverStartError, match=r"services is \['Echo'\]; write \{SERVICE: WORKFLOW\}"):
        GRPCDriver(proto, services=["Echo"])  # type: ignore[arg-type]  # what a workflow file may say
    with pytest.raises(ConfigError, match="RPC_TOKEN holds no token"):
        GRPCDriver(proto, token_env="RPC_TOKEN")
    with pytest.raises(ConfigError, match=r"has no tls\.crt"):
        GRPCDriver(proto, tls=tmp_path)


async def test_a_public_address_without_token_and_tls_is_warned_of(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    proto = write_proto(tmp_path)

    async with (
        hosted(lambda: GRPCDriver(proto), terms=DriverTerms(listen="0.0.0.0")) as driver,
        RpcClient(proto, await port_of(driver)) as client,
    ):
        answer = await client.call("Say", text="hi")

    assert answer.text == "hi"
    assert [record.message for record in caplog.records if getattr(record, "action", "") == "open-driver"] == [
        "the gRPC driver listens on 0.0.0.0 without a token and TLS; others on the network can use the workflow"
    ]


# --- reflection and health ---


async def test_a_client_without_the_file_finds_services_and_types_by_reflection(serve: Serve) -> None:
    served = await serve()

    listed = await reflect(served.client, list_services="")
    found = await reflect(served.client, file_containing_symbol="echo.v1.Echo")

    names = [service.name for service in listed.list_services_response.service]
    files = [
        descriptor_pb2.FileDescriptorProto.FromString(data)
        for data in found.file_descriptor_response.file_descriptor_proto
    ]
    assert names == ["echo.v1.Echo", HEALTH_SERVICE, "grpc.reflection.v1alpha.ServerReflection"]
    assert {file.name for file in files} == {"echo.proto", "google/protobuf/empty.proto"}


async def reflect(client: RpcClient, **wanted: str) -> Any:
    method = client.channel.stream_stream(
        "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo",
        request_serializer=reflection_pb2.ServerReflectionRequest.SerializeToString,
        response_deserializer=reflection_pb2.ServerReflectionResponse.FromString,
    )
    async for answer in method(iter([reflection_pb2.ServerReflectionRequest(**wanted)]), timeout=PATIENCE_S):
        return answer
    raise AssertionError("reflection has not answered")


async def test_health_tells_of_each_service_and_of_none_that_is_not_there(serve: Serve) -> None:
    served = await serve()

    assert await health(served.client) == SERVING
    assert await health(served.client, "echo.v1.Echo") == SERVING
    with pytest.raises(grpc.aio.AioRpcError, match=r'there is no service "Echo"; there are: echo\.v1\.Echo'):
        await health(served.client, "Echo")


async def test_a_workflow_that_is_not_deployed_is_not_serving(tmp_path: Path) -> None:
    proto = write_proto(tmp_path)
    bus = MemoryBroker(SystemClock()).connect()

    async with hosted(lambda: GRPCDriver(proto), bus) as driver, RpcClient(proto, await port_of(driver)) as client:
        status = await health(client)

    assert status == NOT_SERVING


async def health(client: RpcClient, service: str = "") -> int:
    pool = DescriptorPool()
    add_health(pool)
    ask, answer = (
        message_factory.GetMessageClass(pool.FindMessageTypeByName(f"grpc.health.v1.HealthCheck{name}"))
        for name in ("Request", "Response")
    )
    data = await client.send(f"/{HEALTH_SERVICE}/Check", ask(service=service).SerializeToString())
    status: int = answer.FromString(data).status  # type: ignore[attr-defined]  # made at run time
    return status


# --- start and stop ---


async def test_a_port_that_is_taken_is_named_with_its_owner(serve: Serve, tmp_path: Path) -> None:
    served = await serve()
    port = served.driver.services[0].port
    terms = DriverTerms(ports={"grpc": port}, policy=RestartPolicy(restarts=0))

    with pytest.raises(DriverStartError, match=rf'port {port} of "grpc" on 127\.0\.0\.1 is taken by process'):
        async with hosted(lambda: GRPCDriver(write_proto(tmp_path)), served.bus, terms=terms):
            pass


async def test_a_driver_may_name_the_port_that_it_wants(serve: Serve) -> None:
    port = free_port()

    served = await serve(port=port)

    assert served.driver.services[0].port == port


async def test_serving_starts_after_the_answers_are_subscribed_to(tmp_path: Path) -> None:
    proto = write_proto(tmp_path)
    broker = MemoryBroker(SystemClock())
    await broker.connect().ensure_stream(stream_config(STREAM))
    bus = SlowBus(broker.connect())
    port = free_port()
    terms = DriverTerms(ports={"grpc": port})

    async with AnsweringNode(broker.connect(), STREAM), hosted(lambda: GRPCDriver(proto), bus, terms=terms) as driver:
        await asyncio.wait_for(bus.asked.wait(), PATIENCE_S)
        with pytest.raises(OSError):
            await asyncio.open_connection("127.0.0.1", port)
        listed_before = driver.services
        bus.allowed.set()
        async with RpcClient(proto, await port_of(driver)) as client:
            answer = await client.call("Say", text="hi")

    assert (listed_before, answer.text) == ([], "hi")


class SlowBus:
    """A connection whose first subscription takes until `allowed` is set."""

    def __init__(self, bus: Bus) -> None:
        self.asked = asyncio.Event()
        self.allowed = asyncio.Event()
        self._bus = bus

    def __getattr__(self, name: str) -> Any:
        return getattr(self._bus, name)

    async def subscribe(self, *arguments: Any, **options: Any) -> Any:
        self.asked.set()
        await self.allowed.wait()
        return await self._bus.subscribe(*arguments, **options)


async def test_a_stop_finishes_running_calls_and_takes_no_new_ones(tmp_path: Path) -> None:
    proto = write_proto(tmp_path)
    broker = MemoryBroker(SystemClock())
    bus = broker.connect()
    await bus.ensure_stream(stream_config(STREAM))
    async with hosted(lambda: GRPCDriver(proto), bus) as driver:
        port = await port_of(driver)
        async with RpcClient(proto, port) as client, RpcClient(proto, port) as late:
            running = client.start("Say", text="hi")
            await stored(bus, 1)

            stopping = asyncio.create_task(driver.stop())
            await refusal_of(late)
            listed = driver.services
            async with AnsweringNode(broker.connect(), STREAM):
                answer = await running
            await stopping

    assert (answer.text, listed, driver.state) == ("hi", [], DriverState.STOPPED)


async def test_a_call_that_never_ends_is_cancelled_after_the_stop_timeout(tmp_path: Path) -> None:
    proto = write_proto(tmp_path)
    broker = MemoryBroker(SystemClock())
    bus = broker.connect()
    await bus.ensure_stream(stream_config(STREAM))
    async with hosted(lambda: GRPCDriver(proto), bus, terms=DriverTerms(stop_timeout_s=0.3)) as driver:
        async with RpcClient(proto, await port_of(driver)) as client:
            running = client.start("Say", text="hi")
            await stored(bus, 1)

            async with asyncio.timeout(2):
                await driver.stop()
                failed = await asyncio.gather(running, return_exceptions=True)

    assert [error.code() for error in failed if isinstance(error, grpc.aio.AioRpcError)] == [UNAVAILABLE]


async def stored(bus: Bus, count: int) -> None:
    async with asyncio.timeout(PATIENCE_S):
        while (await bus.stream_state(STREAM)).last_sequence < count:  # noqa: ASYNC110 - no event tells of it
            await asyncio.sleep(0.005)


async def refusal_of(client: RpcClient) -> None:
    """Return once the server lets nobody in."""
    async with asyncio.timeout(PATIENCE_S):
        while await ending(client.start("Say", error="", timeout=0.2)) is not None:
            pass


# --- on a real server ---


@pytest.fixture
async def on_nats(nats_server: EmbeddedServer, tmp_path: Path) -> AsyncIterator[Served]:
    proto = write_proto(tmp_path)
    bus, behind = [await NatsBus.connect([nats_server.url], name=name) for name in ("driver", "node")]
    await bus.ensure_stream(stream_config(STREAM, storage="file"))
    async with (
        AnsweringNode(behind, STREAM) as node,
        hosted(lambda: GRPCDriver(proto, payload="json"), bus) as driver,
        RpcClient(proto, await port_of(driver)) as client,
    ):
        yield Served(client, driver, node, bus)
    await bus.close()
    await behind.close()


async def test_of_two_hundred_calls_only_the_failing_ones_fail(on_nats: Served) -> None:
    def start(number: int) -> "grpc.aio.UnaryUnaryCall[Any, Any]":
        if number % 5 == 1:
            return on_nats.client.start("Say", error=f"no {number}")
        if number % 5 == 3:
            return on_nats.client.start("Tell", number=number)  # answered as another type
        return on_nats.client.start("Say", number=number)

    ended = await asyncio.gather(*map(start, range(200)), return_exceptions=True)

    assert [told(each) for each in ended] == [expected(number) for number in range(200)]
    assert len(on_nats.node.received) == 200


def told(ended: Any) -> int | str:
    return f"{ended.code().name}: {ended.details()}" if isinstance(ended, grpc.aio.AioRpcError) else ended.number


def expected(number: int) -> int | str:
    if number % 5 == 1:
        return f"INTERNAL: no {number}"
    if number % 5 == 3:
        return (
            "INTERNAL: echo.v1.Echo/Tell returns echo.v1.Told, and the workflow answered JSON that does not fit: "
            'Message type "echo.v1.Told" has no field named "number" at "Told".\n'
            " Available Fields(except extensions): \"['text']\""
        )
    return number


async def test_without_nats_new_calls_are_unavailable_and_waiting_ones_go_on(
    on_nats: Served, nats_server: EmbeddedServer
) -> None:
    waiting = on_nats.client.start("Say", silent=True, timeout=5)
    await received(on_nats.node, 1)
    nats_server.stop_blocking()

    # The first ones may find out only by waiting that they are not stored.
    async with asyncio.timeout(PATIENCE_S):
        while (failure := await on_nats.client.failure("Say", text="hi", timeout=2)).code is not UNAVAILABLE:
            pass
    ended = await asyncio.gather(waiting, return_exceptions=True)

    assert failure.detail == "NATS cannot be reached"
    assert [error.code() for error in ended if isinstance(error, grpc.aio.AioRpcError)] == [
        grpc.StatusCode.DEADLINE_EXCEEDED
    ]


async def test_clients_take_no_consumers(on_nats: Served) -> None:
    await asyncio.gather(*(on_nats.client.call("Say", number=number) for number in range(64)))

    consumers = [state.name for state in await on_nats.bus.consumer_states(STREAM)]

    assert consumers == ["echo__entrypoint"]
