"""The manifests of the example workflows: references among them, and the schemas of Kubernetes."""

import importlib
import importlib.util
from pathlib import Path
from typing import Any

import pytest
import yaml

from runtime.deploy.kubernetes import KubernetesOptions, manifests
from runtime.deploy.kubernetes_files import read_files
from runtime.spec.dump import yaml_documents
from runtime.spec.load import load
from test.support.kubernetes import broken_references

ROOT = Path(__file__).parents[3]
EXAMPLES = sorted(path.parent for path in ROOT.glob("workflows/*/workflow.yaml"))
# KEDA's, and not Kubernetes's own.
WITHOUT_A_SCHEMA = {"ScaledObject"}

each_example = pytest.mark.parametrize("folder", EXAMPLES, ids=lambda folder: folder.name)


def documents_of(folder: Path) -> list[Any]:
    options = KubernetesOptions(
        image="registry.example/flows:1",
        files=read_files(folder) if folder.name in ("hello", "greeter") else {},
        nats_secret="nats-users",
        share_gpus=True,
    )
    return list(yaml.safe_load_all(yaml_documents(manifests(load(folder), options).documents)))


@each_example
def test_whatever_an_object_of_an_example_refers_to_is_there(folder: Path) -> None:
    documents = documents_of(folder)

    name = load(folder).name
    assert broken_references(documents, [f"{name}-dev", "nats-users"]) == []


@each_example
@pytest.mark.skipif(
    importlib.util.find_spec("kubernetes_validate") is None,
    reason="the schemas of Kubernetes are not there: pip install kubernetes-validate",
)
def test_the_manifests_of_an_example_fit_the_schemas_of_kubernetes(folder: Path) -> None:
    schemas = importlib.import_module("kubernetes_validate")
    version = schemas.latest_version()

    for document in documents_of(folder):
        if document["kind"] not in WITHOUT_A_SCHEMA:
            schemas.validate(document, version, strict=True)
