"""The soak in small: every kind of attack once, and the books balance. `make soak` is the long one."""

import logging
from pathlib import Path

import pytest

from test.soak.run import soak

pytestmark = pytest.mark.attack

MESSAGES = 10_000
# Messages a second, so that they last longer than the attacks.
RATE = 500.0
# One of each kind.
ATTACKS = 7


@pytest.mark.timeout(240)
async def test_a_workflow_under_every_attack_loses_and_repeats_nothing(
    nats_server_binary: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)

    outcome = await soak(MESSAGES, tmp_path, every_s=1.0, seed=1, limit=ATTACKS, rate=RATE)

    assert [line for line in outcome.lines if not line.balances] == []
    assert sorted(outcome.attacks.values()) == [1] * ATTACKS
