"""Starts nodes and cleans up behind them."""

from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from test.support.node import NodeUnderTest

StartNode = Callable[..., Awaitable[NodeUnderTest]]


@pytest.fixture(autouse=True)
def clean(own_modules: None) -> None:
    """Undo what loading a handler does to this process, after every test here."""


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
