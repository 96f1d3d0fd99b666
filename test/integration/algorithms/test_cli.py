"""`krt algorithms` as a process: serve an adapter, list it, call it, put its work into a workflow's queue."""

import asyncio
import json
import os
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from runtime import wire
from runtime.bus.base import StreamConfig
from runtime.bus.embedded import EmbeddedServer
from runtime.bus.nats import NatsBus
from runtime.payload import decode_value
from test.support.algorithms import Bench
from test.support.runtime_child import PATIENCE_S

ADAPTER = '''
def run_add(a: int, b: int = 2) -> int:
    """Add two numbers."""
    return a + b

def run_fail():
    raise ValueError("no luck")

def run_slow():
    import time
    time.sleep(2)
'''


# Exit code, output and errors.
Exit = tuple[int, str, str]


async def krt(*arguments: str, url: str, folder: Path) -> Exit:
    """Run a command to its end."""
    process = await start(*arguments, url=url, folder=folder)
    async with asyncio.timeout(PATIENCE_S):
        out, err = await process.communicate()
    return process.returncode or 0, out.decode(), err.decode()


async def start(*arguments: str, url: str, folder: Path) -> asyncio.subprocess.Process:
    pipe = asyncio.subprocess.PIPE
    environ = {name: value for name, value in os.environ.items() if not name.startswith("KRT_")}
    return await asyncio.create_subprocess_exec(
        sys.executable, "-m", "runtime", "algorithms", *arguments,
        env={**environ, "KRT_NATS_SERVER": url, "PYTHONPATH": str(Path(__file__).parents[3])},
        cwd=folder, stdout=pipe, stderr=pipe,
    )  # fmt: skip


@asynccontextmanager
async def serving(url: str, folder: Path) -> AsyncIterator[asyncio.subprocess.Process]:
    """Serve the adapter in `images`, and end that in order, or with the test."""
    process = await start("serve", "images", "--concurrency", "2", url=url, folder=folder)
    assert process.stderr is not None
    try:
        async with asyncio.timeout(PATIENCE_S):
            while b"ready: add, fail, slow" not in await process.stderr.readline():
                continue
            yield process
            process.send_signal(signal.SIGINT)
            assert await process.wait() == 0
    finally:
        if process.returncode is None:
            process.kill()
            await process.communicate()


@pytest.fixture
def served_folder(tmp_path: Path) -> Path:
    """A folder with an adapter, and a file of arguments."""
    (tmp_path / "images").mkdir()
    (tmp_path / "images" / "runner_adapter.py").write_text(ADAPTER)
    (tmp_path / "call.json").write_text('{"a": 1, "b": 1}')
    return tmp_path


async def test_an_adapter_is_served_listed_and_described(nats_server: EmbeddedServer, served_folder: Path) -> None:
    async def call(*arguments: str) -> Exit:
        return await krt(*arguments, url=nats_server.url, folder=served_folder)

    async with serving(nats_server.url, served_folder):
        listed, as_json, described, every = await asyncio.gather(
            call("ls"), call("ls", "--json"), call("schemas", "add"), call("schemas")
        )
    gone, empty = await asyncio.gather(call("run", "add", '{"a": 1}'), call("ls"))

    assert listed[0] == 0
    assert listed[1].splitlines()[1].split() == ["add", "0.0.0", "1", "images", "Add", "two", "numbers."]
    assert json.loads(as_json[1])["add"]["runners"] == ["images"]
    assert json.loads(described[1])["response"] == {"type": "integer"}
    assert sorted(json.loads(every[1])) == ["add", "fail", "slow"]
    assert gone[0] == 5 and 'unavailable: nobody serves "add" now' in gone[2]
    assert "nobody serves an algorithm now" in empty[1]


async def test_the_exit_code_says_what_became_of_a_call(nats_server: EmbeddedServer, served_folder: Path) -> None:
    cases = (
        (["add", '{"a": 40}'], 0, "42\n", ""),
        (["add", "@call.json"], 0, "2\n", ""),
        (["add", '{"a": "x"}'], 4, "", "invalid: a: Input should be a valid integer"),
        (["absent"], 5, "", 'unknown: no algorithm "absent" is known; there are: add, fail, slow'),
        (["fail"], 1, "", "failed: ValueError: no luck"),
        (["slow", "{}", "--timeout", "200ms"], 3, "", "timeout: no"),
        (["add", "[1]"], 2, "", "the arguments are no JSON object"),
    )

    async with serving(nats_server.url, served_folder):
        calls = (krt("run", *each[0], url=nats_server.url, folder=served_folder) for each in cases)
        found = await asyncio.gather(*calls)

    for (arguments, code, out, err), told in zip(cases, found, strict=True):
        assert told[:2] == (code, out), (arguments, told)
        assert told[2].startswith(err)


async def test_produce_puts_a_call_into_the_queue_of_a_workflow(bench: Bench) -> None:
    await bench.bus.ensure_stream(StreamConfig(name="local_dev_work", subjects=("local_dev_work.>",)))

    code, out, _ = await krt(
        "produce", "work", "ocr", '{"url": "x"}', "--stream", "local_dev_work", "--nats", bench.url,
        url=bench.url, folder=bench.folder,
    )  # fmt: skip

    bus: NatsBus = bench.bus
    message = wire.decode((await bus.get_message("local_dev_work", 1)).data)
    assert code == 0 and out.strip() == message.request_id
    assert decode_value(message.payload) == {"algorithm": "ocr", "payload": {"url": "x"}}


async def test_a_server_that_does_not_answer_is_told(tmp_path: Path) -> None:
    code, _, err = await krt("ls", url="nats://127.0.0.1:9", folder=tmp_path)

    assert code == 5 and "cannot be reached" in err and "give --nats" in err
