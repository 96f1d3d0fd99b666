"""What every layer of tests shares: the time limit of the layer that a test lives in."""

from pathlib import Path

import pytest

TEST_ROOT = Path(__file__).parent
# Seconds that one test may take, by layer. A test marked with `timeout` has its own limit.
LAYER_TIMEOUT_S = {"unit": 10, "conformance": 60, "integration": 60, "acceptance": 120}


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if not item.path.is_relative_to(TEST_ROOT) or item.get_closest_marker("timeout") is not None:
            continue
        layer = item.path.relative_to(TEST_ROOT).parts[0]
        if layer in LAYER_TIMEOUT_S:
            item.add_marker(pytest.mark.timeout(LAYER_TIMEOUT_S[layer]))
