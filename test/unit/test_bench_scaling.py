"""The benchmark's rows of replicas and workers."""

import pytest

from test.bench.scaling import REPLICAS, WORKERS, rows


def test_every_number_of_processes_is_compared_with_one_replica() -> None:
    rates = {(REPLICAS, 1): [90.0, 100.0, 400.0], (REPLICAS, 2): [180.0], (WORKERS, 2): [150.0, 170.0]}

    shown = {row.who: (row.value, row.low, row.high, row.ratio) for row in rows(rates)}

    assert shown == {
        "replicas: 1": (100, 90, 400, 1),
        "replicas: 2": (180, 180, 180, pytest.approx(1.8)),
        "workers: 2": (160, 150, 170, pytest.approx(1.6)),
    }
