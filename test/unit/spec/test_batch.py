"""Nodes of kind `batch` in the workflow file: what is filled in, and what is refused with its place."""

from pathlib import Path
from typing import Any

import pytest

from runtime.spec.batch import BatchSpec
from runtime.spec.load import load, load_report

HEAD = "name: floods\nnodes:\n  - {name: flood, kind: batch, "


def spec_of(folder: Path, keys: str) -> BatchSpec:
    (folder / "workflow.yaml").write_text(f"{HEAD}{keys}}}\n")
    found = load(folder).nodes[0].batch
    assert found is not None
    return found


def problems_of(folder: Path, keys: str, *, check_handlers: bool = False) -> list[str]:
    (folder / "workflow.yaml").write_text(f"{HEAD}{keys}}}\n")
    found = load_report(folder, check_handlers=check_handlers).report.problems
    assert {problem.line for problem in found} == {3}
    return [str(problem).partition(": ")[2] for problem in found]


def test_a_command_needs_nothing_else(tmp_path: Path) -> None:
    spec = spec_of(tmp_path, "backend: command, command: [python, run.py]")

    assert spec == BatchSpec(backend="command", command=("python", "run.py"))
    assert (spec.timeout_s, spec.artifacts.store, spec.object_store, spec.unsupported) == (
        3600,
        "nats:runs",
        "runs",
        (10,),
    )


def test_the_time_of_a_run_is_no_limit_of_its_delivery(tmp_path: Path) -> None:
    (tmp_path / "workflow.yaml").write_text(
        f"{HEAD}backend: command, command: [a], timeout: 2h, env: {{MODE: fast}}}}\n"
    )

    (node,) = load(tmp_path).nodes

    assert node.batch is not None
    assert (node.timeout_s, node.batch.timeout_s) == (None, 7200)
    assert (node.env, node.batch.environment) == ({}, {"MODE": "fast"})
    assert node.concurrency == 1


def test_the_variable_of_the_token_is_passed_on_to_the_process(tmp_path: Path) -> None:
    keys = "backend: command, command: [a], secrets: [KEY], callback: {url: u, token_env: TOKEN}"
    (tmp_path / "workflow.yaml").write_text(f"{HEAD}{keys}}}\n")

    assert load(tmp_path).nodes[0].secrets == ("KEY", "TOKEN")


@pytest.mark.parametrize(
    ("keys", "problem"),
    [
        ("image: a", 'node "flood" has no "backend"; add one [missing-key]'),
        ("backend: docker", 'node "flood" has the backend "docker" and no "image"; add it [missing-key]'),
        ("backend: command", 'node "flood" has the backend "command" and no "command"; add it [missing-key]'),
        (
            "backend: command, command: [a], images: {allow: [b]}",
            'node "flood" has "images", and a command runs in no container; remove it, or write "backend: docker"'
            " [conflict]",
        ),
        (
            "backend: command, command: [a], artifacts: {store: /runs}",
            '"store" of node "flood" is \'/runs\'; write nats:<object store>, file:///path or s3://bucket/prefix'
            " [wrong-value]",
        ),
        (
            "backend: command, command: [a], exit_codes: {unsupported: [0]}",
            '"unsupported" of node "flood" is 0; give 1 or more [out-of-range]',
        ),
        (
            "backend: command, command: python run.py",
            '"command" of node "flood" is \'python run.py\'; give a list: [python, run.py] [wrong-type]',
        ),
        (
            "backend: command, command: [a], callback: {token_env: KRT_TOKEN}",
            '"token_env" of node "flood" names "KRT_TOKEN", and KRT_* is set by the runtime; choose another name'
            " [reserved-name]",
        ),
        (
            "backend: command, command: [a], resources: {memory: 2G}",
            '"memory" of node "flood" is \'2G\'; write a whole number and Ki, Mi, Gi or Ti: 2Gi [bad-size]',
        ),
        (
            "backend: command, command: [a], comand: [b]",
            'node "flood" has no key "comand"; did you mean "command"? [unknown-key]',
        ),
    ],
)
def test_a_fault_is_told_with_its_place(tmp_path: Path, keys: str, problem: str) -> None:
    assert problem in problems_of(tmp_path, keys)


def test_schemas_have_to_be_there(tmp_path: Path) -> None:
    (tmp_path / "input-schema.json").write_text("{}")
    schemas = "backend: command, command: [a], schemas: {input: inputschema.json, output: out.yaml}"

    found = problems_of(tmp_path, schemas, check_handlers=True)

    assert found == [
        'schemas.input inputschema.json does not exist; did you mean "input-schema.json"? [missing-file]',
        'schemas.output out.yaml of node "flood" is no JSON file; name a .json file [wrong-value]',
    ]


def test_keys_of_other_kinds_are_refused_by_name(tmp_path: Path) -> None:
    (problem,) = problems_of(tmp_path, "backend: command, command: [a], cluster: birds")

    assert problem.endswith(
        '"cluster" of node "flood" is for nodes of kind models, and this one is of kind batch; remove it [wrong-kind]'
    )


def test_limits_of_both_kinds_that_have_some_fit_the_schema_for_editors(tmp_path: Path) -> None:
    import jsonschema
    import yaml

    from runtime.spec.schema import workflow_schema

    nodes: list[dict[str, Any]] = [
        {"name": "a", "kind": "batch", "backend": "command", "command": ["a"], "limits": {"files": 3}},
        {
            "name": "b",
            "kind": "models",
            "cluster": "c",
            "base_class": "a.B",
            "calls": [{"method": "m"}],
            "limits": {"failures": 3},
        },
    ]
    validator = jsonschema.Draft202012Validator(workflow_schema())

    assert [fault.message for fault in validator.iter_errors({"name": "x", "nodes": nodes})] == []
    nodes[0] = {**nodes[0], "limits": {"failures": 3}}
    assert len(list(validator.iter_errors(yaml.safe_load(yaml.safe_dump({"name": "x", "nodes": nodes}))))) > 0
