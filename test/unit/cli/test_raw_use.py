"""Handlers that take their data for a mapping without an annotation that makes it one."""

import importlib.util
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from runtime.cli.probe import Wanted, probe
from runtime.cli.raw_use import raw_use
from runtime.spec.join import JoinSpec


def function(tmp_path: Path, source: str) -> Callable[..., Any]:
    """Return `handler` of a module with this text."""
    path = tmp_path / "handler.py"
    path.write_text(source)
    spec = importlib.util.spec_from_file_location("raw_use_of_a_handler", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    found: Callable[..., Any] = module.handler
    return found


@pytest.mark.parametrize(
    "source",
    [
        "\n\ndef handler(ctx, message):\n    return {'hello': message['name']}\n",
        "\n\nasync def handler(ctx, message):\n    return message.get('name')\n",
        "\n\ndef handler(ctx, message) -> dict:\n    return {key: 1 for key in message.keys()}\n",
    ],
)
def test_keys_of_data_without_an_annotation_are_found_with_their_line(tmp_path: Path, source: str) -> None:
    assert raw_use(function(tmp_path, source)) == ("message", 4)


@pytest.mark.parametrize(
    "source",
    [
        "def handler(ctx, data: dict): return data['name']",
        "def handler(ctx, data): return data",
        "def handler(ctx, data): return data.value",
        "def handler(ctx, data):\n    data = {'name': 1}\n    return data['name']",
        "def handler(ctx, data): return [data['name'] for data in ({'name': 1},)]",
        "def handler(ctx, data): return sorted([], key=lambda data: data['name'])",
        "def handler(ctx, data): return data['name'] if isinstance(data, dict) else data",
        "def decoded(function): return function\n@decoded\ndef handler(ctx, data): return data['name']",
        "handler = print",
        "handler = lambda ctx, data: data['name']",
    ],
)
def test_whatever_may_be_right_is_left_alone(tmp_path: Path, source: str) -> None:
    assert raw_use(function(tmp_path, source)) is None


@pytest.mark.usefixtures("own_modules")
def test_the_check_says_where_and_what_to_write(tmp_path: Path) -> None:
    (tmp_path / "handler.py").write_text("def handler(ctx, data):\n    return data['name']\n")

    finding = probe(tmp_path, "handler.py")

    assert (finding.code, finding.types) == ("handler-signature", None)
    assert finding.fault == (
        "handler.py:2: data has no annotation, so it is a raw google.protobuf.Any, which holds no keys;"
        " write data: dict, or another type, in the function's signature"
    )


@pytest.mark.usefixtures("own_modules")
@pytest.mark.parametrize(
    "wanted", [Wanted(batched=True), Wanted(join=JoinSpec(bucket="", parts={}, key="", timeout_s=0, partial=False))]
)
def test_data_of_a_join_and_of_a_batch_has_keys_without_an_annotation(tmp_path: Path, wanted: Wanted) -> None:
    (tmp_path / "handler.py").write_text("def handler(ctx, data):\n    return data['name']\n")

    assert probe(tmp_path, "handler.py", wanted).fault == ""
