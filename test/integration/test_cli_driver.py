"""`krt driver` on a real server: where drivers run without `krt run`, and what is said where nobody runs them."""

import asyncio
import json
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from runtime.bus.embedded import EmbeddedServer
from runtime.bus.nats import NatsBus
from runtime.cli import exits
from test.integration.test_cli_client import Krt
from test.support.answering_node import stream_config
from test.support.guarded_nats import environment
from test.support.run_process import RunProcess

STREAM = "local_dev_flow"

# `Waits` is there until its stop; so is `Dies`, but for a file with which it takes its process away at every start.
OWN = """
import os
import pathlib
from runtime.drivers import PipelineDriver


class Waits(PipelineDriver):
    def run(self, inference, resources):
        inference.stopping.wait()

    def stop(self): ...


class Dies(Waits):
    def run(self, inference, resources):
        while not pathlib.Path("dies").exists():
            if inference.stopping.wait(0.01):
                return
        os._exit(7)
"""


@pytest.fixture
async def krt(nats_server: EmbeddedServer, tmp_path: Path) -> AsyncIterator[Krt]:
    (tmp_path / "own.py").write_text(OWN)
    bus = await NatsBus.connect([nats_server.url], name="workflow")
    await bus.ensure_stream(stream_config(STREAM))
    yield Krt(tmp_path)
    await bus.close()


@asynccontextmanager
async def serving(place: Path, *here: str) -> AsyncIterator[RunProcess]:
    """Run `krt driver serve`, ready for requests, until the end of the block."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "runtime", "driver", "serve", "flow", "--folder", ".", *here,
        cwd=place, env=environment(), start_new_session=True,
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT,
    )  # fmt: skip
    server = RunProcess(process)
    await server.wait_for("ready: krt driver add flow")
    try:
        yield server
    finally:
        assert await server.stop() == exits.OK


async def test_where_nobody_starts_drivers_those_who_do_are_named(krt: Krt, nats_server: EmbeddedServer) -> None:
    code, _, said = await krt(
        "driver", "add", "flow", "web", "http", "--nats", nats_server.url, "--stream", STREAM
    )  # fmt: skip

    assert code == exits.FAILED
    assert said == f"krt: nobody starts drivers for {STREAM}: `krt run` does, and `krt driver serve WORKFLOW`\n"


async def test_drivers_run_in_krt_driver_serve_and_end_with_it(
    krt: Krt, nats_server: EmbeddedServer, tmp_path: Path
) -> None:
    here = ("--nats", nats_server.url, "--stream", STREAM)

    async with serving(tmp_path, *here):
        added = await krt("driver", "add", "flow", "waits", "own:Waits", *here)
        listed = await krt("driver", "ls", "flow", "--json", *here)
    after = await krt("driver", "ls", "flow", *here)

    assert added[0] == exits.OK, added
    told = json.loads(listed[1])
    assert (told["ref"], told["class"], told["state"]) == ("waits", "own:Waits", "running")
    assert after == (exits.OK, "", "")


@pytest.mark.timeout(90)
async def test_a_driver_whose_process_dies_again_and_again_can_be_removed(
    krt: Krt, nats_server: EmbeddedServer, tmp_path: Path
) -> None:
    here = ("--nats", nats_server.url, "--stream", STREAM)

    async with serving(tmp_path, *here) as server:
        added = await krt("driver", "add", "flow", "dies", "own:Dies", *here)
        (tmp_path / "dies").touch()
        await server.wait_for("it does so again and again")
        removed = await krt("driver", "rm", "flow", "dies", *here)
        (tmp_path / "dies").unlink()
        again = await krt("driver", "add", "flow", "dies", "own:Dies", *here)

    assert (added[0], removed, again[0]) == (exits.OK, (exits.OK, "", ""), exits.OK), again


async def test_wrong_words_are_told_before_anything_is_asked(krt: Krt) -> None:
    for wrong, said in {
        ("Web", "http"): '"Web" is no name of a driver',
        ("web", "http", "--port", "http=x"): '"x" is no number of the port http',
        ("web", "http", "--arg", "token"): '"token" is no value; write KEY=VALUE',
    }.items():
        code, _, error = await krt("driver", "add", "flow", *wrong)

        assert (code, said in error) == (exits.CONFIG, True), error


async def test_the_documentation_of_classes_is_printed(krt: Krt) -> None:
    words = await krt("driver", "docs")
    driver = await krt("driver", "docs", "http")
    own = await krt("driver", "docs", "own:Waits")
    unknown = await krt("driver", "docs", "htpp")

    assert "http, grpc, source-sink" in words[1]
    assert "| task_ttl |" in driver[1]
    assert own[1].startswith("### own:Waits")
    assert (unknown[0], 'there is no driver, source or sink "htpp"' in unknown[2]) == (exits.CONFIG, True)
