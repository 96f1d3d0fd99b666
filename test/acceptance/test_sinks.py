"""A workflow with `when` and sinks under `krt run`: each message goes its way, and is stored once."""

import asyncio
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from runtime.cli import exits
from runtime.stores.open import open_documents, open_points
from test.acceptance.test_run import Run, krt

WORKFLOW = """
name: flow
nodes:
  - {name: clean, handler: clean.py}
  - {name: ocr, handler: read.py, from: {node: clean, when: {header: {kind: [scan, fax]}}}}
  - {name: words, handler: read.py, from: {node: clean, when: {field: {kind: text}}}}
  - {name: verdict, handler: verdict.py, from: [ocr, words]}
  - {name: archive, sink: {collection: verdicts, key: id}, retry: {attempts: 2, first: 100ms}}
  - {name: measure, sink: {measurement: verdict, fields: [length], tags: [label]}}
  - {name: failed, from: {node: verdict, when: {channel: failed}}, sink: {collection: failures}}
"""
CLEAN = """
def handler(ctx, data: dict) -> dict:
    ctx.set_header("kind", data["kind"])
    return data
"""
READ = """
def handler(ctx, data: dict) -> dict:
    return {"id": data["id"], "label": ctx.headers["kind"], "text": data["text"]}
"""
VERDICT = """
channels = {"failed": dict}


async def handler(ctx, data: dict) -> dict:
    if not data["text"]:
        await ctx.send_output(data, "failed")
    return {"id": data["id"], "label": data["label"], "length": len(data["text"])}
"""


@pytest.fixture
def run(tmp_path: Path, nats_server_binary: Path) -> Iterator[Run]:
    folder = tmp_path / "flow"
    folder.mkdir()
    (folder / "workflow.yaml").write_text(WORKFLOW)
    for name, source in (("clean", CLEAN), ("read", READ), ("verdict", VERDICT)):
        (folder / f"{name}.py").write_text(source)
    started = Run(tmp_path, "flow")
    yield started
    started.end()


def status(place: Path, is_reached: Callable[[dict[str, Any]], bool]) -> dict[str, Any]:
    """Return the first status that is as asked for, by node; a look takes a second."""
    for _ in range(20):
        shown = krt(place, "status", "flow", "--json")
        assert shown.returncode == exits.OK, shown.stderr
        nodes = {node["node"]: node for node in json.loads(shown.stdout)["flow"]["nodes"]}
        if is_reached(nodes):
            return nodes
    raise AssertionError(nodes)


async def stored(place: Path) -> tuple[list[Any], list[Any], list[Any]]:
    """Return the verdicts and failures that are stored, and the points."""
    uri = f"sqlite:///{place / '.krt' / 'data.db'}"
    documents, points = open_documents(uri), open_points(uri)
    found = [await documents.find(collection, {}) for collection in ("verdicts", "failures")]
    measured = [(point.tags["label"], point.fields) for point in await points.query("verdict")]
    await documents.close()
    await points.close()
    return found[0], found[1], measured


def test_messages_go_where_they_fit_and_are_stored(run: Run, tmp_path: Path) -> None:
    assert krt(tmp_path, "check", "flow").returncode == exits.OK
    run.wait_for("^ready in ")

    answers = [
        run.answer(json.dumps({"id": number, "kind": kind, "text": text}))
        for number, kind, text in ((1, "scan", "ab"), (2, "text", "abc"), (3, "fax", ""))
    ]
    bad = run.answer('{"id": null, "kind": "text", "text": "a"}')

    assert answers == [
        {"id": 1, "label": "scan", "length": 2},
        {"id": 2, "label": "text", "length": 3},
        {"id": 3, "label": "fax", "length": 0},
    ]
    assert bad == {"id": None, "label": "text", "length": 1}
    nodes = status(
        tmp_path,
        lambda nodes: (
            nodes["archive"]["dead_letters"] == 1
            and (nodes["ocr"]["left_out"], nodes["words"]["left_out"]) == (2, 2)
            and all(node["pending"] + node["in_flight"] == 0 for node in nodes.values())
        ),
    )
    assert {name: node["dead_letters"] for name, node in nodes.items() if node["dead_letters"]} == {"archive": 1}
    verdicts, failures, points = asyncio.run(stored(tmp_path))
    assert verdicts == [{"_id": answer["id"], **answer} for answer in answers]
    assert [(len(failure["_id"]), failure["id"]) for failure in failures] == [(24, 3)]
    assert sorted(points, key=str) == [
        ("fax", {"length": 0}), ("scan", {"length": 2}), ("text", {"length": 1}), ("text", {"length": 3})
    ]  # fmt: skip
    letter = json.loads(krt(tmp_path, "dlq", "ls", "--json").stdout.splitlines()[0])
    assert "'id' is empty, and a key is a text or a whole number" in json.dumps(letter)
    assert run.stop() == exits.OK
