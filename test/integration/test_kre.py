"""`python -m runtime node` in the place of KRE's runner: its variables, streams, messages and handler folders."""

import asyncio
import json
import os
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from runtime.bus.base import Confirmation, ConsumerConfig, Reader
from runtime.bus.embedded import EmbeddedServer
from runtime.bus.nats import NatsBus
from test.support.kre import kre_message, public_message, write_generated
from test.support.node import write_handler
from test.support.runtime_child import PATIENCE_S, ROOT

STREAM = "runtime1_v1_greeter"
# KRE's entrypoint publishes to the first subject of a workflow and waits at the last one.
ENTRYPOINT, NODE_A, NODE_B = (f"{STREAM}.{name}" for name in ("entrypoint", "node-a", "node-b"))

FUNCTION_STYLE = """
    import kre_nats_msg_pb2
    from public_input_pb2 import Request, Response

    def init(ctx):
        ctx.set("greeting", "Hello")

    async def handler(ctx, data):
        request = Request()
        data.Unpack(request)
        if request.name == "nobody":
            raise ValueError("nobody to greet")
        response = Response()
        response.greeting = f"{ctx.get('greeting')} {request.name}!"
        return response
"""
FROM_NODE_STYLE = """
    import kre_nats_msg_pb2
    from public_input_pb2 import Request, Response

    async def default_handler(ctx, data):
        request = Request()
        data.Unpack(request)
        if request.name == "nobody":
            raise ValueError("nobody to greet")
        await ctx.send_output(Response(greeting=f"Hello {request.name}!"))
"""
PASS_ON = """
    import kre_nats_msg_pb2

    async def from_a(ctx, data):
        await ctx.send_any(data)

    custom_handlers = {"node-a": from_a}
"""
STYLES = {"function style": FUNCTION_STYLE, "from-node style": FROM_NODE_STYLE}


class KreNode:
    """One node of a workflow, started with what KRE's manager sets and nothing else."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self.process = process
        self.lines: list[str] = []

    @classmethod
    async def start(cls, folder: Path, source: str, version: int, variables: dict[str, str]) -> "KreNode":
        handler = write_handler(folder, source, "src/node/node_handler.py")
        write_generated(handler.parent, version)
        own = {
            "WORKFLOW_ID": "w1", "NODE_ID": "n1", "WORKFLOW_NAME": "greeter", "RUNTIME_ID": "runtime1",
            "VERSION_ID": "63a1f5", "VERSION": "v1", "NATS_STREAM": STREAM, "NATS_MONGO_WRITER": "mongo_writer",
            "BASE_PATH": str(folder), "HANDLER_PATH": "src/node/node_handler.py",
            "MONGO_URI": "mongodb://admin:123456@127.0.0.1:1/admin", "INFLUX_URI": "http://127.0.0.1:1",
            **variables,
        }  # fmt: skip
        inherited = {name: value for name, value in os.environ.items() if not name.startswith("KRT_")}
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "runtime", "node", cwd=ROOT,
            env={**inherited, **{f"KRT_{name}": value for name, value in own.items()}},
            stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT,
        )  # fmt: skip
        return cls(process)

    async def read_until(self, text: str) -> str:
        """Read the log up to a line with `text`, and return that line."""
        assert self.process.stdout is not None
        async with asyncio.timeout(PATIENCE_S):
            while line := (await self.process.stdout.readline()).decode():
                self.lines.append(line)
                if text in line:
                    return line
        raise AssertionError(f"the node ended without {text!r}:\n{''.join(self.lines)}")

    async def stop(self) -> int:
        """Ask it to end; returns the exit code."""
        self.process.terminate()
        async with asyncio.timeout(PATIENCE_S):
            rest, _ = await self.process.communicate()
        self.lines.append(rest.decode())
        return self.process.returncode or 0


class KreWorkflow:
    """A stream as KRE's manager makes it, and the side of KRE's entrypoint."""

    def __init__(self, bus: NatsBus, url: str, folder: Path, version: int) -> None:
        self.bus = bus
        self.version = version
        self._url = url
        self._folder = folder
        self._message = kre_message(version)
        self._publisher = bus.publisher(STREAM)
        self._readers: list[Reader] = []
        self._nodes: list[KreNode] = []

    @classmethod
    async def open(cls, url: str, folder: Path, version: int) -> "KreWorkflow":
        workflow = cls(await NatsBus.connect([url], name="kre"), url, folder, version)
        subjects = [ENTRYPOINT, NODE_A, NODE_B] if version == 1 else [f"{STREAM}.*"]
        await workflow.ask(f"STREAM.CREATE.{STREAM}", name=STREAM, subjects=subjects, retention="interest")
        return workflow

    async def ask(self, what: str, **fields: Any) -> Any:
        answer = json.loads((await self.bus.request(f"$JS.API.{what}", json.dumps(fields).encode(), timeout_s=5)).data)
        assert "error" not in answer, answer
        return answer

    async def answers(self) -> Reader:
        """Return what KRE's entrypoint reads: on the first version its own subject, on the second the exit node's."""
        subject = ENTRYPOINT if self.version == 1 else NODE_B
        reader = self.bus.reader(
            ConsumerConfig(stream=STREAM, durable="kre-entrypoint", filter_subjects=(subject,)), create=True
        )
        await reader.start()
        self._readers.append(reader)
        return reader

    async def start_node(self, source: str, name: str, **more: str) -> KreNode:
        """Start node-a or node-b and wait until it takes messages."""
        if self.version == 1:  # a sequence: a node has its own subject as its input, and the next one's as its output
            variables = {
                "NATS_INPUT": NODE_A if name == "node-a" else NODE_B,
                "NATS_OUTPUT": NODE_B if name == "node-a" else ENTRYPOINT,
                "NATS_ENTRYPOINT_SUBJECT": ENTRYPOINT,
                "IS_LAST_NODE": "true" if name == "node-b" else "false",
            }
        else:  # a graph: a node has its own subject as its output
            variables = {
                "NATS_INPUTS": ENTRYPOINT if name == "node-a" else NODE_A,
                "NATS_OUTPUT": NODE_A if name == "node-a" else NODE_B,
                "NATS_EXITPOINT_SUBJECT": NODE_B,
                "IS_EXITPOINT": "true" if name == "node-b" else "false",
            }
        variables = {"NODE_NAME": name, "NATS_SERVER": self._url, **variables, **more}
        node = await KreNode.start(self._folder / name, source, self.version, variables)
        self._nodes.append(node)
        await node.read_until(" ready")
        return node

    async def send(self, name: str, number: int) -> None:
        """Send a request as KRE's entrypoint does."""
        message = self._message()
        message.payload.type_url = "type.googleapis.com/main.Request"
        message.payload.value = public_message("Request")(name=name).SerializeToString()
        if self.version == 1:
            message.tracking_id, message.reply = f"t{number}", f"r{number}"
            message.tracking.add(node_name="entrypoint", start="2022-11-15T10:00:00", end="2022-11-15T10:00:00.100000")
        else:
            message.request_id, message.from_node, message.message_type = f"r{number}", "entrypoint", 1
        stored = Confirmation()
        subject = NODE_A if self.version == 1 else ENTRYPOINT
        await self._publisher.publish(subject, message.SerializeToString(), message_id=f"in.{number}", confirm=stored)
        await stored

    async def receive(self, reader: Reader) -> Any:
        async with asyncio.timeout(PATIENCE_S):
            delivery = await reader.take()
        reader.ack(delivery)
        return self._message.FromString(delivery.data)

    async def close(self) -> None:
        for node in self._nodes:
            if node.process.returncode is None:
                node.process.kill()
                await node.process.communicate()
            print("".join(node.lines)[-4000:])
        for reader in self._readers:
            await reader.close()
        await self._publisher.close()
        await self.bus.close()


OpenKre = Callable[[int], Awaitable[KreWorkflow]]


@pytest.fixture
async def open_kre(nats_server: EmbeddedServer, tmp_path: Path) -> AsyncIterator[OpenKre]:
    workflows: list[KreWorkflow] = []

    async def open_workflow(version: int) -> KreWorkflow:
        workflow = await KreWorkflow.open(nats_server.url, tmp_path, version)
        workflows.append(workflow)
        return workflow

    yield open_workflow
    for workflow in workflows:
        await workflow.close()


def greeting(message: Any) -> str:
    assert message.payload.type_url == "type.googleapis.com/main.Response"
    return str(public_message("Response").FromString(message.payload.value).greeting)


@pytest.mark.parametrize("source", STYLES.values(), ids=STYLES.keys())
@pytest.mark.parametrize("version", [1, 2])
async def test_a_workflow_of_kres_runs_with_kres_variables_alone(open_kre: OpenKre, version: int, source: str) -> None:
    workflow = await open_kre(version)
    answers = await workflow.answers()
    before = await workflow.ask(f"STREAM.INFO.{STREAM}")
    nodes = [await workflow.start_node(source, "node-a"), await workflow.start_node(PASS_ON, "node-b")]

    await workflow.send("Ada", 1)
    await workflow.send("nobody", 2)
    found = [await workflow.receive(answers), await workflow.receive(answers)]
    answer, error = sorted(found, key=lambda message: bool(message.error))

    assert greeting(answer) == "Hello Ada!"
    if version == 1:
        assert (answer.reply, answer.tracking_id) == ("r1", "t1")
        assert [entry.node_name for entry in answer.tracking] == ["entrypoint", "node-a", "node-b"]
        assert (error.error, error.reply, error.tracking_id) == ("error in 'node-a': nobody to greet", "r2", "t2")
    else:
        assert (answer.request_id, answer.from_node, answer.message_type) == ("r1", "node-b", 1)
        assert (error.request_id, error.from_node, error.message_type) == ("r2", "node-a", 2)
        assert error.error == (
            "Error in node 'node-a' executing handler for node 'entrypoint': ValueError: nobody to greet"
        )
    after = await workflow.ask(f"STREAM.INFO.{STREAM}")
    assert after["config"] == before["config"]
    assert (await workflow.ask("STREAM.NAMES"))["streams"] == [STREAM, f"{STREAM}_dlq"]
    # Each waits two seconds for an InfluxDB that is not there.
    assert await asyncio.gather(*(node.stop() for node in nodes)) == [0, 0]


async def test_an_output_has_no_field_that_kre_does_not_know(open_kre: OpenKre) -> None:
    workflow = await open_kre(2)
    answers = await workflow.answers()
    await workflow.start_node(FUNCTION_STYLE, "node-a")
    await workflow.start_node("async def handler(ctx, data): return data", "node-b")

    for number, name in enumerate(("Ada", "nobody")):
        await workflow.send(name, number)
        async with asyncio.timeout(PATIENCE_S):
            delivery = await answers.take()
        message = kre_message(2).FromString(delivery.data)
        answers.ack(delivery)

        message.DiscardUnknownFields()
        assert message.SerializeToString() == delivery.data


async def test_a_push_consumer_on_the_same_subject_is_warned_of(open_kre: OpenKre) -> None:
    """Both would handle every message; KRE's runner leaves its durable behind when only the image is changed."""
    workflow = await open_kre(1)
    await workflow.answers()
    config = {
        "durable_name": "v1-node-a", "deliver_subject": "_INBOX.kre", "deliver_group": "v1-node-a",
        "ack_policy": "explicit", "deliver_policy": "all", "filter_subject": NODE_A,
    }  # fmt: skip
    await workflow.ask(f"CONSUMER.DURABLE.CREATE.{STREAM}.v1-node-a", stream_name=STREAM, config=config)

    node = await workflow.start_node(FUNCTION_STYLE, "node-a")

    (warning,) = [line for line in node.lines if " WARN " in line]
    assert "push consumer v1-node-a" in warning


async def test_the_consumer_is_there_before_init_ends(open_kre: OpenKre) -> None:
    """A stream of KRE's drops what no consumer is interested in, and loading a model may take minutes."""
    workflow = await open_kre(1)
    answers = await workflow.answers()
    node = await KreNode.start(
        workflow._folder / "slow",
        """
        import asyncio, pathlib
        async def init(ctx):
            ctx.logger.info("loading")
            while not pathlib.Path(ctx.path("go")).exists():
                await asyncio.sleep(0.02)
        async def handler(ctx, data): return data
        """,
        1,
        {
            "NODE_NAME": "node-a", "NATS_SERVER": workflow._url, "NATS_INPUT": NODE_A, "NATS_OUTPUT": ENTRYPOINT,
            "NATS_ENTRYPOINT_SUBJECT": ENTRYPOINT, "IS_LAST_NODE": "true",
        },
    )  # fmt: skip
    workflow._nodes.append(node)
    await node.read_until("loading")

    await workflow.send("Ada", 1)
    (workflow._folder / "slow" / "go").touch()

    assert (await workflow.receive(answers)).reply == "r1"


async def test_a_failing_init_ends_the_process_with_a_failure(open_kre: OpenKre) -> None:
    """KRE's runner lives on and does nothing."""
    workflow = await open_kre(2)
    source = "def init(ctx): raise ValueError('no model')\nasync def handler(ctx, data): return data\n"

    with pytest.raises(AssertionError, match="the node ended without"):
        await workflow.start_node(source, "node-a")

    (node,) = workflow._nodes
    assert await node.process.wait() == 1
    assert any("ValueError: no model" in line for line in node.lines)
