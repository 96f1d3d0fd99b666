"""`krt send`, `krt feed` and `krt status` as processes, against an answering node on a real server."""

import asyncio
import json
import os
import signal
import sys
from collections.abc import AsyncIterator
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from runtime.bus.embedded import EmbeddedServer
from runtime.bus.nats import NatsBus
from runtime.bus.presence import Heartbeat, ServiceRecord
from runtime.cli import exits
from runtime.cli.run_file import RunFile, RunNode, RunWorkflow
from runtime.clock import SystemClock
from runtime.spec import names
from test.support.answering_node import AnsweringNode, stream_config

STREAM = "local_dev_hello"
ROOT = Path(__file__).parents[2]


@dataclass(frozen=True, slots=True)
class Krt:
    """Runs commands in the folder of the run."""

    folder: Path

    async def start(self, *arguments: str) -> asyncio.subprocess.Process:
        return await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            "runtime",
            *arguments,
            cwd=self.folder,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )

    async def __call__(self, *arguments: str) -> tuple[int | None, str, str]:
        """Return exit code, standard output and standard error."""
        process = await self.start(*arguments)
        output, errors = await process.communicate()
        return process.returncode, output.decode(), errors.decode()


@pytest.fixture
async def krt(nats_server: EmbeddedServer, tmp_path: Path) -> AsyncIterator[Krt]:
    bus = await NatsBus.connect([nats_server.url], name="node")
    await bus.ensure_stream(stream_config(STREAM))
    nodes = {"echo": RunNode(durable="echo__entrypoint", replicas=2)}
    workflow = RunWorkflow(stream=STREAM, folder=str(tmp_path), runtime="local", version="dev", nodes=nodes)
    RunFile(nats=nats_server.url, pid=os.getpid(), workflows={"hello": workflow}).write(tmp_path)
    async with AnsweringNode(bus, STREAM):
        yield Krt(tmp_path)
    await bus.close()


async def test_send_prints_the_answer_alone(krt: Krt) -> None:
    assert await krt("send", "hello", '{"name": "Ada"}') == (exits.OK, '{"name":"Ada"}\n', "")
    assert await krt("send", ".", '{"early": 5}', "--all") == (exits.OK, '5\n{"early":5}\n', "")


async def test_the_exit_code_of_send_tells_how_it_ended(krt: Krt) -> None:
    failed, timed_out, wrong, unknown = await asyncio.gather(
        krt("send", "hello", '{"error": "no such city"}'),
        krt("send", "hello", '{"silent": true}', "--timeout", "200ms"),
        krt("send", "hello", "Ada"),
        krt("send", "other", "1"),
    )

    assert (failed[0], failed[1]) == (exits.FAILED, "")
    assert failed[2].startswith('failed in node "echo": no such city (request ')
    assert (timed_out[0], timed_out[1]) == (exits.TIMEOUT, "")
    told, hint = timed_out[2].splitlines()
    assert told.startswith("timeout: no answer within 0.2 s (request ")
    assert hint == f"where it is: krt trace {told.rpartition(' ')[2].removesuffix(')')}"
    assert (wrong[0], wrong[1]) == (exits.CONFIG, "")
    assert (unknown[0], unknown[1]) == (exits.UNAVAILABLE, "")


async def test_send_reaches_a_server_and_stream_by_option(krt: Krt, nats_server: EmbeddedServer) -> None:
    by_option = ["--nats", nats_server.url, "--stream"]

    assert (await krt("send", "any", "1", *by_option, STREAM))[:2] == (exits.OK, "1\n")
    code, _, errors = await krt("send", "any", "1", *by_option, "none")
    assert (code, errors.startswith("krt: there is no stream none on nats://")) == (exits.UNAVAILABLE, True)


async def test_send_sends_and_prints_protobuf_messages(krt: Krt) -> None:
    message = "google.protobuf.source_context_pb2:SourceContext"

    code, output, _ = await krt("send", "hello", '{"file_name": "x"}', "--message", message)

    assert (code, output) == (exits.OK, '{"file_name":"x"}\n')


async def test_feed_answers_every_line_and_counts_the_bad_ones(krt: Krt) -> None:
    lines = [*(json.dumps({"n": number}) for number in range(500)), "oops", '{"error": "boom"}']
    (krt.folder / "in.jsonl").write_text("\n".join(lines))

    code, output, errors = await krt("feed", "hello", "in.jsonl", "--out", "out.jsonl")

    results = [json.loads(line) for line in (krt.folder / "out.jsonl").read_text().splitlines()]
    assert (code, errors) == (exits.FAILED, "")
    assert sorted(result["index"] for result in results) == list(range(502))
    assert all(result["output"] == {"n": result["index"]} for result in results if result["ok"])
    assert [(r["line"], r["outcome"]) for r in results if not r["ok"]] == [(501, "invalid"), (502, "failed")]
    assert "502" in output
    assert "2 (1 invalid, 1 failed)" in output


async def test_feed_reads_csv_and_exits_with_zero_when_all_is_well(krt: Krt) -> None:
    (krt.folder / "in.csv").write_text("name,age\nAda,36\nBob,\n")

    code, _, _ = await krt("feed", "hello", "in.csv", "--out", "out.jsonl", "--rate", "100")

    results = [json.loads(line) for line in (krt.folder / "out.jsonl").read_text().splitlines()]
    assert code == exits.OK
    assert [result["output"] for result in results] == [{"name": "Ada", "age": 36}, {"name": "Bob", "age": ""}]


async def test_ctrl_c_ends_a_feed_with_the_summary_of_what_was_done(krt: Krt) -> None:
    (krt.folder / "in.jsonl").write_text('{"silent": true}\n' * 5)
    process = await krt.start("feed", "hello", "in.jsonl")
    assert process.stderr is not None
    await _wait_for_requests(krt, 5)

    process.send_signal(signal.SIGINT)
    told = await process.stderr.readline()
    process.send_signal(signal.SIGINT)
    output, _ = await process.communicate()

    assert told == b"stopping: 5 requests in flight; Ctrl-C again leaves them\n"
    assert b"5 (5 cancelled)" in output
    assert process.returncode == exits.INTERRUPTED


async def _wait_for_requests(krt: Krt, count: int) -> None:
    run = RunFile.read(krt.folder)
    assert run is not None
    bus = await NatsBus.connect([run.nats], name="watch")
    while (await bus.stream_state(STREAM)).messages < count:  # noqa: ASYNC110 - the stream is in another process
        await asyncio.sleep(0.02)
    await bus.close()


async def test_status_shows_every_node_as_a_table_and_as_json(krt: Krt) -> None:
    run = RunFile.read(krt.folder)
    assert run is not None
    bus = await NatsBus.connect([run.nats], name="processes")
    counters = {"points_written": 1_200, "points_retried": 0, "points_dropped": 3}
    node = replace(ServiceRecord.of_this_process("node", "echo", workflow="hello"), counters=counters)
    writer = replace(ServiceRecord.of_this_process("writer", "writer"), counters={"stored": 5_000, "refused": 0})

    async with present(bus, node, f"node.{STREAM}.echo.a1"), present(bus, writer, f"writer.{STREAM}.a1"):
        (code, table, _), (_, text, _) = await asyncio.gather(krt("status"), krt("status", "hello", "--json"))

    assert code == exits.OK
    *_, of_echo, stream_line, manager_line, writer_line, measurements = table.splitlines()
    assert of_echo.split() == ["echo", "1/2", "0", "0", "0", "0", "0.0/s"]
    assert stream_line == "stream: memory on 1 server; lost when its servers end"
    assert manager_line == "manager: none alive"
    assert writer_line == "writer: 1 alive; documents: 5,000 stored"
    assert measurements == "measurements: 1,200 written, 3 dropped"
    assert json.loads(text) == {
        "hello": {
            "nodes": [
                {
                    "node": "echo",
                    "live": [json.loads(node.encode())],
                    "planned": 2,
                    "points": {"written": 1_200, "retried": 0, "dropped": 3},
                    "pending": 0,
                    "in_flight": 0,
                    "redelivered": 0,
                    "dead_letters": 0,
                    "left_out": 0,
                    "rate": 0.0,
                    "fused_with": "",
                }
            ],
            "services": [json.loads(writer.encode())],
            "placement": {"storage": "memory", "replicas": 1, "leader": "", "followers": []},
            "sync": "",
            "failing": [],
            "gpus": [],
        }
    }
    await bus.close()


def present(bus: NatsBus, record: ServiceRecord, key: str) -> Heartbeat:
    return Heartbeat(bus, names.PRESENCE_BUCKET, key, lambda: record, SystemClock())


async def test_watching_the_status_prints_every_look_until_ctrl_c(krt: Krt) -> None:
    process = await krt.start("status", "--watch", "--json")
    assert process.stdout is not None

    looks = [json.loads(await process.stdout.readline()) for _ in range(2)]
    process.send_signal(signal.SIGINT)
    await process.communicate()

    assert [list(look) for look in looks] == [["hello"], ["hello"]]
    assert process.returncode == exits.INTERRUPTED


async def test_a_server_that_is_gone_is_told_as_not_reachable(krt: Krt) -> None:
    code, output, errors = await krt("send", "hello", "1", "--nats", "nats://127.0.0.1:1", "--stream", STREAM)

    assert (code, output) == (exits.UNAVAILABLE, "")
    assert errors.startswith('krt: workflow "hello" cannot be reached: ')
