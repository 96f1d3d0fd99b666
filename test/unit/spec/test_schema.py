"""The JSON Schema: it takes what the loader takes, and shows the defaults that the models have."""

import functools
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

from runtime.spec.drivers import DRIVER
from runtime.spec.fields import NODE, NODE_KINDS, WORKFLOW
from runtime.spec.load import load
from runtime.spec.schema import workflow_schema

VALID = Path(__file__).parents[2] / "conformance" / "spec" / "valid"


@functools.cache
def validator() -> jsonschema.Draft202012Validator:
    schema = workflow_schema()
    jsonschema.Draft202012Validator.check_schema(schema)
    return jsonschema.Draft202012Validator(schema)


def as_an_editor_reads(text: str) -> Any:
    """Return the values of a file with YAML's own types, a date as its text."""

    class Loader(yaml.SafeLoader):
        pass

    Loader.add_constructor("tag:yaml.org,2002:timestamp", lambda loader, node: node.value)
    return yaml.load(text, Loader=Loader)


def example(name: str = "every-key") -> Any:
    return as_an_editor_reads((VALID / f"{name}.yaml").read_text())


@pytest.mark.parametrize("file", sorted(VALID.glob("*.yaml")), ids=lambda file: file.stem)
def test_valid_files_fit_the_schema(file: Path) -> None:
    validator().validate(as_an_editor_reads(file.read_text()))


def test_the_example_of_every_key_has_every_key() -> None:
    document = example()

    assert set(document) == set(WORKFLOW.fields)
    assert {key for node in document["nodes"] for key in node} == set(NODE.fields)
    assert set(document["drivers"]["web"]) == set(DRIVER.fields)
    assert set(document["nodes"][0]["retry"]) == set(
        workflow_schema()["properties"]["nodes"]["items"]["properties"]["retry"]["properties"]
    )


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (["nme"], "x"),
        (["name"], "Hello_World"),
        (["nodes"], []),
        (["nodes", 0, "retires"], {}),
        (["nodes", 0, "timeout"], "30"),
        (["nodes", 0, "replicas"], 0),
        (["nodes", 0, "replicas"], {"min": 1}),
        (["nodes", 0, "image"], "two words"),
        (["nodes", 0, "env"], {"KRT_X": "1"}),
        (["nodes", 0, "from"], []),
        (["nodes", 0, "dead_letter"], "keep"),
        (["nodes", 0, "retry", "jitter"], 2),
        (["nodes", 0, "secrets"], ["sk-123"]),
        (["stream", "max_bytes"], "20GB"),
        (["defaults", "handler"], "x.py"),
        (["drivers", "web"], "htpp"),
        (["drivers", "web", "sorces"], {}),
        (["drivers", "web", "ports"], {"http": 65536}),
        (["nodes", 0, "cluster"], "game"),
        (["nodes", 0, "kind"], "dispatch"),
        (["nodes", 3, "order"], True),
        (["nodes", 3, "replicas"], 2),
        (["nodes", 3, "calls"], []),
        (["nodes", 3, "calls", 0, "args"], ["metrics"]),
        (["nodes", 3, "calls", 0, "kwargs", "mode"], {"valeu": 1}),
        (["nodes", 3, "base_class"], "Player"),
        (["nodes", 3, "arguments"], "prepare:arguments"),
        (["nodes", 4, "wait_for_runner"], "soon"),
        (["nodes", 4, "calls"], [{"method": "tick"}]),
        (["nodes", 9, "handler"], "archive.py"),
        (["nodes", 9, "kind"], "handler"),
        (["nodes", 9, "sink", "fields"], ["id"]),
        (["nodes", 9, "sink"], {"collection": "a", "measurement": "b"}),
        (["nodes", 9, "from", "when"], {}),
        (["nodes", 9, "from", "when", "header"], {"kind": []}),
        (["nodes", 9, "from", "when", "field"], {}),
        (["nodes", 9, "from", "when", "field"], {"a..b": 1}),
        (["nodes", 9, "from", "when", "field"], {"pages": []}),
        (["nodes", 9, "from", "when", "field"], {"pages": {"is": 1}}),
        (["nodes", 9, "from", "when", "channel"], "No_Name"),
        (["nodes", 9, "from", "node"], ["tell"]),
        (["output"], {"node": "tell", "when": {"channel": "a"}}),
        (["algorithms"], ["sum"]),
    ],
)
def test_what_the_loader_refuses_does_not_fit_the_schema(path: list[Any], value: Any) -> None:
    document = example()
    inner = document
    for key in path[:-1]:
        inner = inner[key]

    inner[path[-1]] = value

    assert not validator().is_valid(document)


@pytest.mark.parametrize("key", ["cluster", "base_class", "calls"])
def test_a_node_that_calls_models_needs_its_keys(key: str) -> None:
    document = example()

    del document["nodes"][3][key]

    assert not validator().is_valid(document)


def test_every_key_is_described() -> None:
    def undescribed(schema: dict[str, Any]) -> list[str]:
        found = []
        for key, inner in schema.get("properties", {}).items():
            found += [] if inner.get("description") else [key]
            found += undescribed(inner) + undescribed(inner.get("items", {}))
        return found

    assert undescribed(workflow_schema()) == []


def test_the_defaults_shown_are_the_defaults_used(tmp_path: Path) -> None:
    def shown(schema: dict[str, Any]) -> dict[str, Any]:
        """Return what stands in the file when every default is written out."""
        found = {}
        for key, inner in schema["properties"].items():
            if "default" in inner:
                found[key] = inner["default"]
            elif (
                inner.get("type") == "object" and "properties" in inner and key != "defaults" and not inner["required"]
            ):
                found[key] = shown(inner)
        return found

    schema = workflow_schema()
    defaults = shown(schema["properties"]["nodes"]["items"])
    node = {"name": "a"} | {key: value for key, value in defaults.items() if key in NODE_KINDS["handler"].fields}
    (tmp_path / "written.yaml").write_text(yaml.safe_dump({"name": "hello", **shown(schema), "nodes": [node]}))
    (tmp_path / "absent.yaml").write_text("name: hello\nnodes: [{name: a}]\n")

    written, absent = load(tmp_path / "written.yaml"), load(tmp_path / "absent.yaml")

    assert written.model_dump(exclude={"path"}) == absent.model_dump(exclude={"path"})
    assert set(node) > {"timeout", "retry", "dead_letter", "replicas"}
