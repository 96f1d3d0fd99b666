"""Whatever text the loader is given, it answers with a workflow or a WorkflowError, and with nothing else."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from runtime.errors import WorkflowError
from runtime.spec.fields import NODE, RETRY, STREAM, WORKFLOW
from runtime.spec.load import load

# Most of it is the making of examples, which a busy machine slows down.
pytestmark = pytest.mark.timeout(60)

KEYS = sorted({*WORKFLOW.fields, *WORKFLOW.planned, *NODE.fields, *NODE.planned, *RETRY.fields, *STREAM.fields})
WORDS = ["a", "b", "a.x", "entrypoint", "30s", "1Gi", "none", "drop", "handler", "models", "1", "010", "<<", "a.py"]

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.sampled_from(WORDS),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.sampled_from(KEYS) | st.text(), inner, max_size=5),
    max_leaves=20,
)
NODES = st.lists(
    st.fixed_dictionaries(
        {"name": st.sampled_from(["a", "b", "c"])}, optional={key: VALUES for key in NODE.fields if key != "name"}
    ),
    max_size=3,
)
WORKFLOWS = st.fixed_dictionaries(
    {"name": st.just("hello"), "nodes": NODES},
    optional={key: VALUES for key in WORKFLOW.fields if key not in {"name", "nodes"}},
)
# Characters that mean something in YAML, far more often than chance brings them.
YAML_TEXT = st.text(st.sampled_from("ab:-[]{}&*!|>'\"%@#,?\\ \n\t~<x0\u00e9"), max_size=60)

same_folder = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


@pytest.fixture
def refuse_or_load(tmp_path: Path) -> Callable[[bytes], None]:
    path = tmp_path / "workflow.yaml"

    def run(data: bytes) -> None:
        path.write_bytes(data)
        try:
            load(path, check_handlers=True)
        except WorkflowError as err:
            assert err.problems
            str(err).encode()

    return run


@same_folder
@given(st.binary(max_size=80))
def test_any_bytes(refuse_or_load: Callable[[bytes], None], data: bytes) -> None:
    refuse_or_load(data)


@same_folder
@given(YAML_TEXT)
def test_any_text_of_yaml_characters(refuse_or_load: Callable[[bytes], None], text: str) -> None:
    refuse_or_load(text.encode())


@same_folder
@given(VALUES)
def test_any_tree(refuse_or_load: Callable[[bytes], None], tree: object) -> None:
    refuse_or_load(yaml.safe_dump(tree, allow_unicode=True).encode("utf-8", "surrogatepass"))


@same_folder
@given(WORKFLOWS)
def test_anything_that_is_nearly_a_workflow(refuse_or_load: Callable[[bytes], None], tree: object) -> None:
    refuse_or_load(json.dumps(tree).encode())
