"""Nodes with `sink`: what the file may say of them, and what they are to the others."""

from pathlib import Path

import pytest

from runtime.spec.load import Loaded, load_report
from runtime.spec.model import Source
from runtime.spec.sink import DocumentSink, PointSink


def read(folder: Path, *nodes: str, **keys: str) -> Loaded:
    file = folder / "workflow.yaml"
    written = "".join(f"{key}: {value}\n" for key, value in keys.items())
    file.write_text(f"name: doc\n{written}nodes:\n" + "".join(f"  - {{{node}}}\n" for node in nodes))
    return load_report(file)


@pytest.mark.parametrize(
    ("keys", "problem"),
    [
        ("sink: scores", '"sink" of node "archive" is \'scores\'; give a mapping: {collection: scores}'),
        (
            "sink: {key: id}",
            '"sink" of node "archive" has no "collection" and no "measurement"; name one of them: {collection: scores}',
        ),
        (
            "sink: {collection: a, measurement: b}",
            '"sink" of node "archive" has "collection" and "measurement"; make a sink of each',
        ),
        ("sink: {collection: []}", '"collection" of node "archive" is a list; give the name of a collection'),
        ("sink: {collection: $a}", '"collection" of node "archive" is \'$a\'; begin it with a letter'),
        ("sink: {measurement: '#a'}", '"measurement" of node "archive" is \'#a\'; begin it with a letter'),
        (
            "sink: {collection: a, fields: [b]}",
            '"sink" of node "archive" has no key "fields"; use collection or key',
        ),
        (
            "sink: {measurement: a, fields: b}",
            '"fields" of node "archive" is \'b\'; give a list of fields of the message: [score]',
        ),
        (
            "sink: {collection: a, key: a..b}",
            '"key" of node "archive" is \'a..b\'; name a field of the message, '
            "with dots into inner ones: document.tokens",
        ),
        (
            "sink: {collection: a}, handler: archive.py",
            '"handler" of node "archive" is for nodes with code, and this one is a sink; remove it',
        ),
        (
            "sink: {collection: a}, kind: dispatch",
            '"kind" of node "archive" is for nodes with code, and this one is a sink; remove it',
        ),
        (
            "sink: {collection: a}, state: true",
            '"state" of node "archive" is for nodes with code, and this one is a sink; remove it',
        ),
        ("kind: sink", '"kind" of node "archive" is \'sink\'; use handler, models, dispatch or batch'),
    ],
)
def test_what_is_wrong_is_told_with_its_remedy(tmp_path: Path, keys: str, problem: str) -> None:
    (found,) = read(tmp_path, "name: score", f"name: archive, {keys}").report.problems

    assert f"{found.what}; {found.remedy}" == problem


def test_a_sink_is_passed_over_by_the_wiring_and_by_the_output(tmp_path: Path) -> None:
    loaded = read(
        tmp_path,
        "name: inbox, sink: {collection: requests}",
        "name: score",
        "name: archive, sink: {collection: scores, key: id}",
        "name: measure, sink: {measurement: score, tags: [label]}",
        "name: tell",
        "name: done, sink: {collection: told}",
    )

    assert loaded.workflow is not None
    assert loaded.workflow.output == Source(node="tell")
    assert {node.name: str(node.sources[0]) for node in loaded.workflow.nodes} == {
        "inbox": "entrypoint",
        "score": "entrypoint",
        "archive": "score",
        "measure": "score",
        "tell": "score",
        "done": "tell",
    }
    assert loaded.workflow.node("archive").sink == DocumentSink(collection="scores", key="id")
    assert loaded.workflow.node("measure").sink == PointSink(measurement="score", tags=("label",))


def test_where_there_are_only_sinks_the_last_one_is_the_output(tmp_path: Path) -> None:
    loaded = read(tmp_path, "name: archive, sink: {collection: a}", "name: more, sink: {collection: b}")

    assert loaded.workflow is not None
    assert loaded.workflow.output == Source(node="more")


def test_a_sink_leaves_out_defaults_that_are_about_code(tmp_path: Path) -> None:
    loaded = read(tmp_path, "name: archive, sink: {collection: a}", defaults="{batch: true, timeout: 5s}")

    assert loaded.workflow is not None
    assert loaded.workflow.node("archive").timeout_s == 5
    assert loaded.workflow.node("archive").batching is None


def test_a_sink_cannot_be_fused(tmp_path: Path) -> None:
    loaded = read(tmp_path, "name: score", "name: archive, sink: {collection: a}", fuse="[score, archive]")

    (problem,) = loaded.report.problems
    assert (problem.code, problem.what) == ("not-fusable", 'node "archive" is of kind sink')


def test_a_sink_that_is_read_before_its_own_source_is_known_is_told_of(tmp_path: Path) -> None:
    loaded = read(tmp_path, "name: late, from: archive", "name: archive, sink: {collection: a}, from: late")

    assert {problem.code for problem in loaded.report.problems} == {"cycle", "sink-source"}
