"""Every query gives the same answer as an independent matcher."""

from typing import Any

import pytest
from hypothesis import event, example, given, settings

from runtime.stores.query import compile_query
from test.unit.stores.naive_matcher import matches
from test.unit.stores.query_strategies import documents, queries


@pytest.mark.timeout(60)
@settings(max_examples=400, deadline=None)
@given(document=documents, query=queries)
@example(document={"a": [{"b": 1}]}, query={"a.0.b": None})
@example(document={"a": [[1]]}, query={"a.0": 1})
@example(document={"a": 2**53 + 1}, query={"a": float(2**53)})
def test_a_query_matches_as_an_independent_matcher_says(document: dict[str, Any], query: dict[str, Any]) -> None:
    expected = matches(document, query)
    event(f"matches: {expected}")

    assert compile_query(query)(document) is expected
