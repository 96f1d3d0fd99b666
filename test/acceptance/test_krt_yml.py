"""Folders made for KRE: a krt.yml of each version, with handlers as KRE's users write them, under `krt run`."""

import json
import os
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from runtime.cli import exits
from runtime.testing import run_workflow

ROOT = Path(__file__).parents[2]
# Seconds until everything of a run is ready, on a machine that does other things as well.
READY_WITHIN_S = 60.0

needs_nats = pytest.mark.usefixtures("nats_server_binary")

MANIFEST_V1 = """
version: greeter-v1
krtVersion: v1
description: Greets
entrypoint: {proto: public_input.proto, image: konstellation/kre-entrypoint:latest}
config:
  variables: [GREETING]
  files: [NAMES_FILE]
nodes:
  - {name: etl, image: konstellation/kre-py:latest, src: src/etl/main.py}
  - {name: greet, image: konstellation/kre-py:latest, src: src/greet/main.py, gpu: false}
workflows:
  - {name: greeter, entrypoint: Greeter, sequential: [etl, greet]}
"""
ETL_V1 = """
from public_input_pb2 import Request, Response

async def handler(ctx, data):
    req = Request()
    data.Unpack(req)
    if req.language == "early":
        res = Response()
        res.greeting = "early, " + req.name
        await ctx.early_reply(res)
    req.name = req.name.strip()
    return req
"""
GREET_V1 = """
import json
import os
from public_input_pb2 import Request, Response

def init(ctx):
    with open(os.getenv("NAMES_FILE")) as file:
        ctx.set("names", json.load(file))

async def handler(ctx, data):
    req = Request()
    data.Unpack(req)
    if req.name == "nobody":
        raise ValueError("there is no such name")
    res = Response()
    res.greeting = os.getenv("GREETING") + ", " + ctx.get("names").get(req.name, req.name)
    return res
"""

MANIFEST_V2 = """
version: greeter-v2
krtVersion: v2
description: Greets
entrypoint:
  proto: public_input.proto
  image: konstellation/kre-entrypoint:latest
config:
  variables:
workflows:
  - name: greeter
    entrypoint: Greeter
    exitpoint: EXITPOINT
    nodes:
      - name: etl
        image: konstellation/kre-py:latest
        src: src/etl/main.py
        subscriptions:
          - "entrypoint"
      - name: greet
        image: konstellation/kre-py:latest
        src: src/greet/main.py
        gpu: false
        replicas: 1
        subscriptions:
          - "etl.known"
"""
BUILT_IN_EXITPOINT = """
      - name: konstellation-exitpoint
        subscriptions: [etl, greet]
"""
OWN_EXITPOINT = """
      - name: exitpoint
        image: konstellation/kre-py:latest
        src: src/exitpoint/main.py
        subscriptions: [etl, greet]
"""
ETL_V2 = """
from public_input_pb2 import Request, Response

async def default_handler(ctx, data):
    req = Request()
    data.Unpack(req)
    if req.language == "early":
        res = Response()
        res.greeting = "early, " + req.name
        await ctx.send_early_reply(res)
    await ctx.send_output(req)
    await ctx.send_output(req, "known")
"""
GREET_V2 = """
from public_input_pb2 import Request, Response

async def default_handler(ctx, data):
    raise RuntimeError("only etl sends here")

async def of_etl(ctx, data):
    req = Request()
    data.Unpack(req)
    res = Response()
    res.greeting = "Hello, " + req.name
    await ctx.send_output(res)

custom_handlers = {"etl": of_etl}
"""
EXITPOINT_V2 = """
async def default_handler(ctx, data):
    if ctx.is_message_early_reply():
        await ctx.send_early_reply(data)

async def of_greet(ctx, data):
    await ctx.send_any(data)

custom_handlers = {"greet": of_greet}
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder for a manifest and its handlers, beside the messages that the greeter of `workflows/` has.

    Its service is called as KRE's entrypoint wants it.
    """
    made = tmp_path / "greeter"
    made.mkdir()
    shutil.copy(ROOT / "workflows" / "greeter" / "public_input_pb2.py", made)
    proto = (ROOT / "workflows" / "greeter" / "public_input.proto").read_text()
    entrypoint = proto.replace("service Greeter", "service Entrypoint").replace("rpc Greet(", "rpc Greeter(")
    (made / "public_input.proto").write_text(entrypoint)
    return made


def write(folder: Path, manifest: str, **handlers: str) -> None:
    (folder / "krt.yml").write_text(manifest)
    for name, source in handlers.items():
        (folder / "src" / name).mkdir(parents=True)
        (folder / "src" / name / "main.py").write_text(source)


def krt(place: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "runtime", *arguments],
        cwd=place,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=60,
    )


def answer(place: Path, name: str, language: str = "") -> str:
    request = json.dumps({"name": name, "language": language})
    sent = krt(place, "send", "greeter", request, "--message", "public_input_pb2:Request")
    assert sent.returncode == exits.OK, sent.stderr
    return str(json.loads(sent.stdout)["greeting"])


@contextmanager
def running(place: Path, **variables: str) -> Iterator[None]:
    """Run the folder `greeter`, from when it is ready until Ctrl-C has ended it."""
    process = subprocess.Popen(
        [sys.executable, "-m", "runtime", "run", "greeter"],
        cwd=place,
        env={**os.environ, "PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": "1", **variables},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    # Reading ends, and the test fails, when the run is not ready in time.
    overdue = threading.Timer(READY_WITHIN_S, process.kill)
    overdue.start()
    assert process.stdout is not None
    lines: list[str] = []
    try:
        for line in process.stdout:
            lines.append(line)
            if "ready in" in line:
                break
        else:
            pytest.fail(f"krt run ended before it was ready:\n{''.join(lines)}")
        overdue.cancel()
        yield
    finally:
        overdue.cancel()
        process.send_signal(signal.SIGINT)
        rest, _ = process.communicate(timeout=60)
    assert process.returncode == exits.OK, "".join(lines) + rest


@needs_nats
def test_a_folder_of_version_1_answers_with_its_variables_and_files(folder: Path) -> None:
    write(folder, MANIFEST_V1, etl=ETL_V1, greet=GREET_V1)
    names = folder / "names.json"
    names.write_text('{"ada": "Ada Lovelace"}')

    with running(folder.parent, GREETING="Welcome", NAMES_FILE=str(names)):
        last = answer(folder.parent, " ada ")
        early = answer(folder.parent, "ada", "early")
        failed = krt(
            folder.parent, "send", "greeter", '{"name": "nobody"}', "--message", "public_input_pb2:Request"
        )  # fmt: skip
        status = krt(folder.parent, "status", "greeter", "--json")

    assert (last, early) == ("Welcome, Ada Lovelace", "early, ada")
    assert failed.returncode == exits.FAILED
    assert 'failed in node "greet"' in failed.stderr and "there is no such name" in failed.stderr
    assert status.returncode == exits.OK and '"greet"' in status.stdout


@needs_nats
def test_a_folder_of_version_2_answers_through_kre_s_own_exitpoint(folder: Path) -> None:
    manifest = MANIFEST_V2.replace("EXITPOINT", "konstellation-exitpoint") + BUILT_IN_EXITPOINT
    write(folder, manifest, etl=ETL_V2, greet=GREET_V2)

    with running(folder.parent):
        last = answer(folder.parent, "Ada")
        early = answer(folder.parent, "Ada", "early")

    assert (last, early) == ("Hello, Ada", "early, Ada")


def test_variables_that_are_not_set_are_named_and_nothing_starts(folder: Path) -> None:
    write(folder, MANIFEST_V1, etl=ETL_V1, greet=GREET_V1)

    run = krt(folder.parent, "run", "greeter")

    assert run.returncode == exits.CONFIG
    assert 'node "etl" needs the secret GREETING, which is not set' in run.stderr
    assert 'node "greet" needs the secret NAMES_FILE, which is not set' in run.stderr


def test_an_exitpoint_of_the_user_s_own_answers_once_its_handler_sends(folder: Path) -> None:
    write(
        folder,
        MANIFEST_V2.replace("EXITPOINT", "exitpoint") + OWN_EXITPOINT,
        etl=ETL_V2,
        greet=GREET_V2,
        exitpoint=EXITPOINT_V2,
    )

    with run_workflow(folder) as workflow:
        from public_input_pb2 import Request  # type: ignore[import-not-found]  # in the folder

        last = workflow.send(Request(name="Ada"))
        early = workflow.send(Request(name="Ada", language="early"))
        dead = workflow.dead_letters()

    assert (last.greeting, early.greeting) == ("Hello, Ada", "early, Ada")
    assert dead == []


def test_one_workflow_of_several_runs_in_memory_with_its_variables(folder: Path) -> None:
    only_etl = "  - {name: clean, entrypoint: Cleaner, sequential: [etl]}\n"
    write(folder, MANIFEST_V1 + only_etl, etl=ETL_V1, greet=GREET_V1)
    variables = {"GREETING": "Welcome", "NAMES_FILE": "unread"}

    with run_workflow(folder, workflow="clean", environment=variables) as workflow:
        from public_input_pb2 import Request

        cleaned = workflow.send(Request(name=" Ada "))

    assert cleaned.name == "Ada"


def test_the_converted_file_runs_as_the_manifest_does(folder: Path) -> None:
    write(
        folder,
        MANIFEST_V2.replace("EXITPOINT", "konstellation-exitpoint") + BUILT_IN_EXITPOINT,
        etl=ETL_V2,
        greet=GREET_V2,
    )
    converted = krt(folder.parent, "convert", "greeter", "--out", "greeter/workflow.yaml")
    (folder / "krt.yml").unlink()

    with run_workflow(folder) as workflow:
        from public_input_pb2 import Request

        last = workflow.send(Request(name="Ada"))

    assert converted.returncode == exits.OK, converted.stderr
    assert last.greeting == "Hello, Ada"
