"""The models: look-ups, and the dedup window."""

from pathlib import Path

import pytest
from pydantic import ValidationError

from runtime.errors import ConfigError
from runtime.spec.model import Node, Source, Workflow, entrypoint
from runtime.spec.node import RetryPolicy


def workflow(*nodes: Node) -> Workflow:
    path = Path("workflow.yaml")
    return Workflow(name="hello", nodes=nodes, output=Source(node=nodes[-1].name), folder=path.parent, path=path)


def node(name: str = "a", *sources: str, retry: RetryPolicy | None = None, timeout_s: float | None = 60) -> Node:
    read = tuple(Source.parse(source) for source in sources) or (entrypoint(),)
    return Node(name=name, handler="a.py", sources=read, retry=retry or RetryPolicy(), timeout_s=timeout_s)


def test_a_source_is_written_as_it_is_parsed() -> None:
    assert Source.parse("clean.sure") == Source(node="clean", channel="sure")
    assert [str(Source.parse(text)) for text in ("entrypoint", "clean.sure")] == ["entrypoint", "clean.sure"]


def test_readers_are_those_of_the_channel() -> None:
    flow = workflow(node("a"), node("b", "a"), node("c", "a.x", "b"), node("d", "a", "a.x"))

    assert [reader.name for reader in flow.readers_of(Source.parse("a"))] == ["b", "d"]
    assert [reader.name for reader in flow.readers_of(Source.parse("a.x"))] == ["c", "d"]


def test_an_unknown_node_is_an_error_with_the_known_ones() -> None:
    flow = workflow(node("a"), node("b", "a"))

    assert flow.node("b").name == "b"
    with pytest.raises(ConfigError, match='workflow "hello" has no node "c"; it has a, b'):
        flow.node("c")


def test_models_cannot_be_changed_and_take_no_unknown_key() -> None:
    with pytest.raises(ValidationError):
        setattr(node(), "name", "b")  # noqa: B010  mypy knows that the plain assignment fails
    with pytest.raises(ValidationError):
        Source.model_validate({"node": "a", "chanel": "b"})


@pytest.mark.parametrize(
    ("retry", "timeout_s", "window_s"),
    [
        # 5 × (60 + 30) + (1 + 2 + 4 + 8) × 1.2
        pytest.param(RetryPolicy(), 60, 468, id="defaults"),
        pytest.param(RetryPolicy(attempts=1), 5, 120, id="never below two minutes"),
        pytest.param(RetryPolicy(attempts=5, first_s=600, max_s=3600), 60, 1800, id="never above thirty"),
        pytest.param(RetryPolicy(attempts=1), None, 1800, id="no timeout"),
        pytest.param(RetryPolicy(attempts=10**9, first_s=0), 1, 1800, id="a billion attempts"),
        # 4 × (60 + 30) + (5 + 10 + 10), the growing delay cut at its maximum
        pytest.param(RetryPolicy(attempts=4, first_s=5, max_s=10, jitter=0), 60, 385, id="delays end growing"),
    ],
)
def test_dedup_window_covers_the_longest_retries(retry: RetryPolicy, timeout_s: float | None, window_s: float) -> None:
    flow = workflow(node("a", timeout_s=1, retry=RetryPolicy(attempts=1)), node("b", retry=retry, timeout_s=timeout_s))

    assert flow.dedup_window_s == pytest.approx(window_s)
