"""KRE's rules for its manifest, and what its keys become."""

from pathlib import Path

import pytest

from runtime.spec.dump import plain
from runtime.spec.kre import workflow_file
from runtime.spec.load import load, load_report, workflow_names
from runtime.spec.model import Source, Workflow
from runtime.spec.report import Report
from runtime.spec.tree import Mapping, parse

HEAD = """\
version: mail
description: Sorts mail
entrypoint: {proto: public_input.proto, image: konstellation/kre-entrypoint:latest}
"""
ETL = "name: etl, image: konstellation/kre-py:latest, src: etl.py"


def v1(node: str = ETL, sequential: str = "[etl]") -> str:
    return f"{HEAD}nodes:\n  - {{{node}}}\nworkflows:\n  - {{name: sort, entrypoint: Sort, sequential: {sequential}}}\n"


def v2(*nodes: str, exitpoint: str = "etl") -> str:
    lines = "".join(f"      - {{{node}}}\n" for node in nodes)
    return f"{HEAD}workflows:\n  - name: sort\n    entrypoint: Sort\n    exitpoint: {exitpoint}\n    nodes:\n{lines}"


def write(folder: Path, text: str) -> Path:
    file = folder / "krt.yml"
    file.write_text(text)
    return file


def problems(folder: Path, text: str, workflow: str = "") -> list[str]:
    """Return `LINE what [code]` of everything but the driver that is always left out."""
    report = load_report(write(folder, text), workflow=workflow).report
    return [f"{p.line} {p.what} [{p.code}]" for p in report.problems if "gRPC driver" not in p.what]


def workflow_of(folder: Path, text: str) -> Workflow:
    return load(write(folder, text))


def test_a_folder_s_manifest_is_found_and_a_workflow_file_wins(tmp_path: Path) -> None:
    write(tmp_path, v1())

    of_manifest = load(tmp_path)
    (tmp_path / "workflow.yaml").write_text("name: other\nnodes: [{name: a}]\n")
    of_file = load(tmp_path)

    assert (of_manifest.name, of_file.name) == ("sort", "other")


def test_without_a_word_on_the_version_nodes_inside_a_workflow_make_it_v2(tmp_path: Path) -> None:
    assert problems(tmp_path, v1()) == []
    assert problems(tmp_path, v2(f"{ETL}, subscriptions: [entrypoint]")) == []


def test_an_unknown_version_is_named(tmp_path: Path) -> None:
    assert problems(tmp_path, f"krtVersion: v3\n{v1()}") == ["1 \"krtVersion\" of the manifest is 'v3' [wrong-value]"]


def test_every_key_that_kre_requires_is_asked_for_at_once(tmp_path: Path) -> None:
    text = "krtVersion: v2\nentrypoint: {}\nworkflows:\n  - nodes:\n      - {gpu: false}\n"

    assert problems(tmp_path, text) == [
        '1 the manifest has no "version" and no "description" [missing-key]',
        '2 the entrypoint has no "proto" and no "image" [missing-key]',
        '4 the workflow has no "name" and no "entrypoint" and no "exitpoint" [missing-key]',
        '5 the first node has no "name" and no "image" and no "src" and no "subscriptions" [missing-key]',
    ]


def test_a_key_without_a_value_is_absent(tmp_path: Path) -> None:
    assert problems(tmp_path, v1(f"{ETL}, gpu: , replicas: null") + "config:\n  variables:\n  files: ~\n") == []
    assert problems(tmp_path, v1("name: etl, image: konstellation/kre-py, src: ")) == [
        '5 node "etl" has no "src" [missing-key]'
    ]


def test_a_key_that_kre_passes_over_is_a_warning(tmp_path: Path) -> None:
    report = load_report(write(tmp_path, v1(f"{ETL}, replica: 3"))).report

    assert report.errors == ()
    assert any('did you mean "replicas"?' in problem.remedy for problem in report.problems)


def test_nodes_of_v1_run_in_their_sequence_and_the_last_answers(tmp_path: Path) -> None:
    text = v1(ETL, "[late, etl]").replace("workflows:", "  - {name: late, image: a, src: late.py}\nworkflows:")

    workflow = workflow_of(tmp_path, text.replace("image: a", "image: konstellation/kre-py"))

    assert [(node.name, [str(source) for source in node.sources]) for node in workflow.nodes] == [
        ("late", ["entrypoint"]),
        ("etl", ["late"]),
    ]
    assert workflow.output == Source(node="etl")


def test_a_sequence_with_an_undeclared_node_is_an_error(tmp_path: Path) -> None:
    assert problems(tmp_path, v1(ETL, "[elt]")) == [
        '7 "sequential" names "elt", which "nodes" does not declare [unknown-source]'
    ]


def test_a_subscription_to_a_missing_node_is_an_error_unlike_in_kre(tmp_path: Path) -> None:
    assert problems(tmp_path, v2(f"{ETL}, subscriptions: [late]")) == [
        '9 node "etl" reads from "late", which no node provides [unknown-source]'
    ]


def test_names_are_shorter_than_kre_s_limit(tmp_path: Path) -> None:
    text = v1(ETL.replace("etl,", "exactly-19-letters1,", 1), "[exactly-19-letters1]")
    longer = text.replace("letters1", "letters12")

    assert problems(tmp_path, text) == []
    assert problems(tmp_path, longer) == [
        '7 "exactly-19-letters12" has 20 characters, and KRE takes 19 in a name [bad-name]'
    ]


def test_what_kre_does_is_written_out(tmp_path: Path) -> None:
    (node,) = workflow_of(tmp_path, v1()).nodes

    assert (node.concurrency, node.timeout_s, node.retry.attempts) == (1, None, 1)


@pytest.mark.parametrize(("written", "replicas"), [("0", 1), ("1", 1), ("3", 3)])
def test_no_replicas_mean_one(tmp_path: Path, written: str, replicas: int) -> None:
    (node,) = workflow_of(tmp_path, v1(f"{ETL}, replicas: {written}")).nodes

    assert node.replicas == replicas


def test_variables_and_files_have_to_be_set_for_every_node(tmp_path: Path) -> None:
    text = v1() + "config: {variables: [API_URL, API_TOKEN], files: [STOP_WORDS, API_URL]}\n"

    (node,) = workflow_of(tmp_path, text).nodes

    assert node.secrets == ("API_URL", "API_TOKEN", "STOP_WORDS")


@pytest.mark.parametrize("name", ["lower", "_A", "A_", "1A", "A-B"])
def test_variables_are_named_by_kre_s_rule(tmp_path: Path, name: str) -> None:
    assert problems(tmp_path, f"{v1()}config: {{variables: [{name}]}}\n") == [
        f'8 "variables" of "config" names \'{name}\' [bad-name]'
    ]


def test_kre_s_own_exitpoint_is_built_in_and_passes_the_node_above_on(tmp_path: Path) -> None:
    exitpoint = "name: konstellation-exitpoint, image: konstellation/kre-exitpoint:latest, subscriptions: [etl, late]"
    late = f"{ETL.replace('etl', 'late')}, subscriptions: [etl]"
    text = v2(f"{ETL}, subscriptions: [entrypoint]", late, exitpoint, exitpoint="konstellation-exitpoint")

    workflow = workflow_of(tmp_path, text)

    node = workflow.node("konstellation-exitpoint")
    assert (node.handler, node.env) == ("krt:passthrough", {"PASSTHROUGH_FROM": "late"})
    assert [str(source) for source in node.sources] == ["etl", "late"]
    assert workflow.output == Source(node="konstellation-exitpoint")


def test_a_node_called_like_kre_s_exitpoint_keeps_its_own_source(tmp_path: Path) -> None:
    node = f"{ETL.replace('name: etl', 'name: konstellation-exitpoint')}, subscriptions: [entrypoint]"

    workflow = workflow_of(tmp_path, v2(node, exitpoint="konstellation-exitpoint"))

    assert workflow.nodes[0].handler == "etl.py"


@pytest.mark.parametrize(
    ("written", "key", "value"),
    [("gpu: true", "resources", {"gpu": 1}), ("image: my/scorer:2", "image", "my/scorer:2")],
)
def test_gpus_and_an_image_of_one_s_own_are_written(written: str, key: str, value: object) -> None:
    node = ETL.replace("image: konstellation/kre-py:latest", written) if key == "image" else f"{ETL}, {written}"
    root = parse(v1(node).encode(), Report("krt.yml"))
    assert isinstance(root, Mapping)

    document = workflow_file(root, "", Report("krt.yml"))

    assert document is not None
    assert plain(document)["nodes"] == [{"name": "etl", "handler": "etl.py", key: value}]


def test_an_image_of_kre_s_own_and_no_gpu_are_nothing_to_say(tmp_path: Path) -> None:
    assert problems(tmp_path, v1(f"{ETL.replace('konstellation', 'registry.example/konstellation')}, gpu: false")) == []


def test_one_object_store_has_one_scope(tmp_path: Path) -> None:
    etl = f"{ETL}, subscriptions: [entrypoint], objectStore: {{name: pages, scope: project}}"
    late = f"{ETL.replace('etl', 'late')}, subscriptions: [etl], objectStore: {{name: pages}}"

    found = problems(tmp_path, v2(etl, late))

    assert '10 the object store "pages" has the scope workflow here, and project at line 9 [wrong-value]' in found


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("krtVersion: v1\n", '1 the manifest has no "version" and no "description" and no "entrypoint" and no'),
        ("workflows: []\n", '1 "workflows" of the manifest is an empty list [missing-key]'),
        ("workflows: all\n", "1 \"workflows\" of the manifest is 'all' [wrong-type]"),
        ("workflows: [sort]\n", "1 the workflow is 'sort' [wrong-type]"),
        ("krtVersion: v2\nworkflows: [{nodes: [etl]}]\n", "2 the first node is 'etl' [wrong-type]"),
    ],
)
def test_a_gap_is_reported_and_no_crash(tmp_path: Path, text: str, expected: str) -> None:
    assert any(problem.startswith(expected) for problem in problems(tmp_path, text))


def test_problems_of_other_workflows_are_left_out(tmp_path: Path) -> None:
    text = v1() + "  - {name: train, entrypoint: Train, sequential: [nobody]}\n"

    assert workflow_names(write(tmp_path, text)) == ("sort", "train")
    assert problems(tmp_path, text, "sort") == []
    assert len(problems(tmp_path, text, "train")) == 1


@pytest.mark.parametrize("text", [v1(), "name: sort\nnodes: [{name: a}]\n"])
def test_a_workflow_that_is_not_there_is_named(tmp_path: Path, text: str) -> None:
    report = load_report(write(tmp_path, text), workflow="srot").report

    (problem,) = report.problems
    assert (problem.code, "srot" in problem.what) == ("which-workflow", True)
