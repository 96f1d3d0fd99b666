"""The key `when` of a source: what it may say, and what the model makes of it."""

from pathlib import Path

import pytest

from runtime.deploy.node_spec import node_spec
from runtime.spec.load import Loaded, load_report
from runtime.spec.selection import Conditions

FILE = """
name: doc
nodes:
  - {{name: clean, handler: clean.py}}
  - {{name: ocr, handler: ocr.py, {reads}}}
"""


def read(folder: Path, reads: str) -> Loaded:
    file = folder / "workflow.yaml"
    file.write_text(FILE.format(reads=reads))
    return load_report(file)


@pytest.mark.parametrize(
    ("reads", "problem"),
    [
        (
            "from: {node: clean, when: {}}",
            '"when" of node "ocr" is empty; name a header, a field or a channel, or remove it',
        ),
        ("from: {node: clean, when: scan}", '"when" of node "ocr" is \'scan\'; give a mapping: {header: {kind: scan}}'),
        ("from: {node: clean, wen: {}}", '"from" of node "ocr" has no key "wen"; did you mean "when"?'),
        ("from: {when: {channel: a}}", '"from" of node "ocr" has no "node"; add one'),
        (
            "from: {node: clean, when: {heder: {a: b}}}",
            '"when" of node "ocr" has no key "heder"; did you mean "header"?',
        ),
        ("from: {node: clean, when: {header: {}}}", '"header" of node "ocr" is empty; name a header: {kind: scan}'),
        (
            "from: {node: clean, when: {header: kind}}",
            '"header" of node "ocr" is \'kind\'; give a mapping: {kind: scan}',
        ),
        (
            "from: {node: clean, when: {header: {kind: []}}}",
            '"kind" of "header" of node "ocr" is an empty list; name a value, or remove the key',
        ),
        (
            "from: {node: clean, when: {header: {kind: {equals: scan}}}}",
            '"kind" of "header" of node "ocr" is a mapping; give a text',
        ),
        (
            "from: {node: clean, when: {filed: {a: b}}}",
            '"when" of node "ocr" has no key "filed"; did you mean "field"?',
        ),
        ("from: {node: clean, when: {field: {}}}", '"field" of node "ocr" is empty; name a field: {label: cat}'),
        (
            "from: {node: clean, when: {field: [label]}}",
            '"field" of node "ocr" is a list; give a mapping: {label: cat}',
        ),
        (
            "from: {node: clean, when: {field: {meta..camera: gate}}}",
            '"field" of node "ocr" has the key \'meta..camera\';'
            " name a field of the message, with dots into inner ones: meta.camera",
        ),
        (
            "from: {node: clean, when: {field: {label: []}}}",
            '"label" of "field" of node "ocr" is an empty list; name a value, or remove the key',
        ),
        (
            "from: {node: clean, when: {field: {label: [cat, {equals: dog}]}}}",
            '"label" of "field" of node "ocr" is a mapping; give a text, a number, true, false or null',
        ),
        (
            "from: {node: clean, when: {field: {label: [[cat]]}}}",
            '"label" of "field" of node "ocr" is a list; give a text, a number, true, false or null',
        ),
        (
            "from: {node: clean, when: {field: {label: }}}",
            '"label" of "field" of node "ocr" is empty; write true, false or null, or put a text into quotes',
        ),
        (
            "from: {node: clean, when: {field: {label: [true, True]}}}",
            '"label" of "field" of node "ocr" is \'True\'; write true, false or null, or put a text into quotes',
        ),
        (
            "from: {node: clean, when: {field: {label: 1e400}}}",
            '"label" of "field" of node "ocr" is a number beyond those of JSON;'
            " give one of 64 bits, or put a text into quotes",
        ),
        (
            "from: {node: clean, when: {channel: p1}}",
            'the channel "p1" belongs to the runtime; choose another name',
        ),
        (
            "from: {node: clean.a, when: {channel: b}}",
            '"clean.a" names a channel, and "when" as well; write {node: clean, when: {channel: [..]}}',
        ),
        (
            "from: [clean, {node: clean, when: {header: {kind: scan}}}]",
            'node "ocr" reads "clean" twice; keep one',
        ),
        (
            "from: {node: entrypoint, when: {channel: a}}",
            'node "ocr" reads from "entrypoint.a", but the entrypoint has no channels; write from: entrypoint',
        ),
        (
            "from: {node: claen, when: {header: {kind: scan}}}",
            'node "ocr" reads from "claen", which no node provides; did you mean "clean"?',
        ),
        (
            "join: {of: {one: entrypoint, two: {node: clean, when: {channel: [a, b]}}}}",
            '"of" of node "ocr" has 2 channels in one part; make a part of each: all parts are waited for',
        ),
    ],
)
def test_what_is_wrong_is_told_with_its_remedy(tmp_path: Path, reads: str, problem: str) -> None:
    (found,) = read(tmp_path, reads).report.problems

    assert f"{found.what}; {found.remedy}" == problem


def test_fields_are_compared_with_what_json_reads(tmp_path: Path) -> None:
    reads = 'from: {node: clean, when: {field: {n: [1, "1", 1.5, true, "true", null, "", yes, 007, 1.10.2]}}}'
    loaded = read(tmp_path, reads)
    assert loaded.workflow is not None

    spec = node_spec(loaded.workflow, loaded.workflow.node("ocr"), "local", "")

    values = (1, "1", 1.5, True, "true", None, "", "yes", "007", "1.10.2")
    assert spec.when == {"local_dev_doc.clean": Conditions(fields={"n": values})}


def test_the_output_of_a_workflow_has_no_conditions(tmp_path: Path) -> None:
    file = tmp_path / "workflow.yaml"
    file.write_text("{name: doc, output: {node: a, when: {channel: b}}, nodes: [{name: a}]}")

    assert [problem.code for problem in load_report(file).report.problems] == ["wrong-type"]


def test_a_runner_is_told_the_conditions_by_the_subjects_of_its_inputs(tmp_path: Path) -> None:
    loaded = read(tmp_path, "from: [{node: clean, when: {header: {kind: [scan, 1.10]}}}, clean.late]")
    assert loaded.workflow is not None

    spec = node_spec(loaded.workflow, loaded.workflow.node("ocr"), "local", "")

    assert spec.when == {"local_dev_doc.clean": Conditions(headers={"kind": ("scan", "1.10")})}


def test_conditions_change_nothing_of_the_consumer(tmp_path: Path) -> None:
    whole, part = (
        read(tmp_path, reads).workflow for reads in ("from: clean", "from: {node: clean, when: {header: {kind: scan}}}")
    )
    assert whole is not None and part is not None

    assert whole.node("ocr").sources == part.node("ocr").sources
