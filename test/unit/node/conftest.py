"""Starts nodes and cleans up behind them: loading a handler changes `sys.path` and `sys.modules` on purpose."""

import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from test.support.node import NodeUnderTest

StartNode = Callable[..., Awaitable[NodeUnderTest]]


@pytest.fixture(autouse=True)
def own_modules() -> Iterator[None]:
    """Undo what loading a handler does to this process."""
    path, modules = list(sys.path), set(sys.modules)
    yield
    sys.path[:] = path
    for name in set(sys.modules) - modules:
        module = sys.modules[name]
        if name in ("handler", "worker") or not getattr(module, "__file__", None):
            del sys.modules[name]


@pytest.fixture
async def start_node(tmp_path: Path) -> AsyncIterator[StartNode]:
    """Start nodes from handler texts; they are stopped after the test."""
    nodes: list[NodeUnderTest] = []

    async def start(source: str, **options: Any) -> NodeUnderTest:
        node = NodeUnderTest(tmp_path, source, **options)
        nodes.append(node)
        return await node.start()

    yield start
    for node in nodes:
        await node.stop()
