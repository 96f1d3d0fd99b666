"""Runs the suite of document stores on every implementation."""

from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from runtime.stores.open import open_documents
from test.conformance.stores import document_store


@pytest.fixture(params=["sqlite"])
def open_store(request: pytest.FixtureRequest, tmp_path: Path) -> document_store.Open:
    assert request.param == "sqlite"
    return lambda: open_documents(f"sqlite:///{tmp_path / 'store.db'}", "data")


@pytest.mark.parametrize("check", document_store.SUITE, ids=lambda check: check.__name__)
async def test_a_document_store_conforms(
    check: Callable[[document_store.Open], Awaitable[None]], open_store: document_store.Open
) -> None:
    await check(open_store)
