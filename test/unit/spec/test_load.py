"""Loading: paths, defaults, wiring, and what a faulty part does not hide."""

from pathlib import Path

import pytest

from runtime.errors import WorkflowError
from runtime.spec.load import Loaded, load, load_report
from runtime.spec.model import Workflow


def write(folder: Path, text: str) -> Path:
    path = folder / "workflow.yaml"
    path.write_text(text)
    return path


def codes(loaded: Loaded) -> list[str]:
    return [problem.code for problem in loaded.report.problems]


def sources(workflow: Workflow) -> dict[str, list[str]]:
    return {node.name: [str(source) for source in node.sources] for node in workflow.nodes}


def test_a_folder_stands_for_the_workflow_yaml_in_it(tmp_path: Path) -> None:
    file = write(tmp_path, "name: hello\nnodes: [{name: count}]\n")

    assert load(tmp_path) == load(file) == load(str(tmp_path))


def test_five_faults_are_five_problems_with_positions(tmp_path: Path) -> None:
    file = write(
        tmp_path,
        "name: Hello\n"
        "nodes:\n"
        "  - {name: clean, timeout: 30}\n"
        "  - {name: score, from: clena}\n"
        "  - {name: store, replicas: two}\n"
        "strem: {}\n",
    )

    with pytest.raises(WorkflowError) as caught:
        load(file)

    assert [(p.line, p.column, p.code) for p in caught.value.problems] == [
        (1, 7, "bad-name"),
        (3, 28, "bad-duration"),
        (4, 25, "unknown-source"),
        (5, 29, "wrong-type"),
        (6, 1, "unknown-key"),
    ]


def test_without_from_a_node_reads_the_node_above_and_the_first_the_entrypoint(tmp_path: Path) -> None:
    workflow = load(write(tmp_path, "name: hello\nnodes: [{name: a}, {name: b}, {name: c}]\n"))

    assert sources(workflow) == {"a": ["entrypoint"], "b": ["a"], "c": ["b"]}
    assert str(workflow.output) == "c"


def test_a_node_may_read_one_that_stands_below_it(tmp_path: Path) -> None:
    workflow = load(
        write(tmp_path, "name: hello\noutput: a\nnodes: [{name: a, from: b}, {name: b, from: entrypoint}]\n")
    )

    assert sources(workflow) == {"a": ["b"], "b": ["entrypoint"]}


def test_the_handler_of_a_node_lies_in_the_folder_of_its_name(tmp_path: Path) -> None:
    workflow = load(write(tmp_path, "name: hello\nnodes: [{name: count}]\n"))

    assert workflow.node("count").handler == "count/handler.py"


def test_defaults_come_under_every_node_and_are_merged_key_by_key(tmp_path: Path) -> None:
    workflow = load(
        write(
            tmp_path,
            "name: hello\n"
            "defaults: {timeout: 5s, dead_letter: {keep: 1d}, env: {A: default, B: default}}\n"
            "nodes: [{name: a}, {name: b, timeout: none, dead_letter: drop, env: {B: own}}]\n",
        )
    )

    first, second = workflow.nodes
    assert (first.timeout_s, first.dead_letter_keep_s, first.env) == (5.0, 86400.0, {"A": "default", "B": "default"})
    assert (second.timeout_s, second.dead_letter_keep_s, second.env) == (None, None, {"A": "default", "B": "own"})


def test_a_fault_in_the_defaults_is_told_once_and_not_once_per_node(tmp_path: Path) -> None:
    file = write(tmp_path, "name: hello\ndefaults: {timeout: 5, retires: {}}\nnodes: [{name: a}, {name: b}]\n")

    assert codes(load_report(file)) == ["bad-duration", "unknown-key"]


def test_a_node_without_a_name_hides_no_other_fault(tmp_path: Path) -> None:
    file = write(tmp_path, "name: hello\nnodes: [{handler: a.py}, {name: b}, {name: c, from: d, timeout: 1}]\n")

    assert codes(load_report(file)) == ["missing-key", "unknown-source", "bad-duration"]


def test_a_missing_file_is_one_problem(tmp_path: Path) -> None:
    loaded = load_report(tmp_path)

    (problem,) = loaded.report.problems
    assert (problem.code, problem.file) == ("unreadable", str(tmp_path / "workflow.yaml"))


def test_a_workflow_needs_a_node(tmp_path: Path) -> None:
    assert codes(load_report(write(tmp_path, "name: hello\nnodes: []\n"))) == ["missing-key"]


def test_handlers_are_only_looked_for_when_asked(tmp_path: Path) -> None:
    file = write(tmp_path, "name: hello\nnodes: [{name: count}]\n")

    assert codes(load_report(file)) == []
    assert codes(load_report(file, check_handlers=True)) == ["missing-file"]


def test_a_node_of_another_kind_or_a_sink_is_not_asked_for_a_handler(tmp_path: Path) -> None:
    file = write(tmp_path, "name: hello\nnodes: [{name: a, kind: dispatch}, {name: b, sink: {key: id}}]\n")

    assert codes(load_report(file, check_handlers=True)) == ["missing-key"]


def test_a_handler_with_an_endless_name_is_missing_and_no_crash(tmp_path: Path) -> None:
    file = write(tmp_path, f"name: hello\nnodes: [{{name: count, handler: {'a' * 5000}.py}}]\n")

    assert codes(load_report(file, check_handlers=True)) == ["missing-file"]


def test_many_nodes_with_large_defaults_are_too_large_together(tmp_path: Path) -> None:
    nodes = ", ".join(f"{{name: n{number}}}" for number in range(300))
    file = write(tmp_path, f"name: hello\ndefaults: {{env: {{A: {'x' * 5000}}}}}\nnodes: [{nodes}]\n")

    assert codes(load_report(file)) == ["too-large"]


def test_a_chain_of_thousands_of_nodes_is_wired(tmp_path: Path) -> None:
    chain = "\n".join(f"- {{name: n{number}, from: n{number + 1}}}" for number in range(2000))
    file = write(tmp_path, f"name: hello\nnodes:\n{chain}\n- {{name: n2000, from: entrypoint}}\noutput: n0\n")

    workflow = load(file)

    assert len(workflow.nodes) == 2001


def test_a_long_loop_is_shown_shortened(tmp_path: Path) -> None:
    chain = "\n".join(f"- {{name: n{number}, from: n{(number + 1) % 20}}}" for number in range(20))

    loaded = load_report(write(tmp_path, f"name: hello\nnodes:\n{chain}\n"))

    (problem,) = loaded.report.problems
    assert problem.what == '"n0" -> "n19" -> "n18" -> "n17" -> "n16" -> "n15" -> "…" -> "n0" is a loop'


def test_a_handler_that_is_a_link_out_of_the_folder_is_a_problem(tmp_path: Path) -> None:
    folder = tmp_path / "flow"
    folder.mkdir()
    (tmp_path / "secret.py").write_text("def handler(ctx, data): ...")
    (folder / "a.py").symlink_to(tmp_path / "secret.py")
    (folder / "workflow.yaml").write_text("name: flow\nnodes: [{name: a, handler: a.py}]\n")

    with pytest.raises(
        WorkflowError, match=r"2:28: handler a\.py of node \"a\" is a link that leads out .*outside-folder"
    ):
        load(folder, check_handlers=True)
