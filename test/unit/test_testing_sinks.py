"""`runtime.testing` with `when` and sinks: a workflow in memory does as a deployed one."""

from pathlib import Path

import pytest

from runtime.testing import run_workflow

pytestmark = pytest.mark.usefixtures("own_modules")

FILE = """
name: tested
nodes:
  - {name: clean, handler: clean.py}
  - {name: words, handler: words.py, from: {node: clean, when: {header: {kind: text}}}}
  - {name: count, handler: count.py, from: {node: words, when: {header: {long: "yes"}}}}
  - {name: archive, sink: {collection: counts}}
  - {name: measure, sink: {measurement: count}}
"""
CLEAN = """
def handler(ctx, data: str) -> str:
    ctx.set_header("kind", "text" if data.isalpha() else "number")
    return data
"""
WORDS = """
def handler(ctx, data: str) -> str:
    ctx.set_header("long", "yes" if len(data) > 2 else "no")
    return data
"""
COUNT = "def handler(ctx, data: str) -> dict:\n    return {'text': data, 'length': len(data)}\n"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "workflow.yaml").write_text(FILE)
    for name, source in (("clean", CLEAN), ("words", WORDS), ("count", COUNT)):
        (tmp_path / f"{name}.py").write_text(source)
    return tmp_path


def test_what_fits_is_handled_and_stored_and_the_rest_left_out(folder: Path) -> None:
    with run_workflow(folder) as workflow:
        answer = workflow.send("abc")
        for text in ("ab", "123"):
            workflow.post(text)
        workflow.advance(1.0)

        assert answer == {"text": "abc", "length": 3}
        assert workflow.outputs("words") == ["abc", "ab"]
        assert [document["text"] for document in workflow.documents("counts")] == ["abc"]
        assert [point.fields for point in workflow.points("count")] == [{"length": 3}]
        assert workflow.dead_letters() == []
