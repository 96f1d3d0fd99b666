"""A node is killed with SIGKILL at every await and hand-over of its path: each message ends once, however it ends."""

import pytest

from runtime.bus.base import StoredMessage
from runtime.deadletter import HEADER, DeadLetter
from runtime.spec.node import RetryPolicy
from test.integration.conftest import OpenWorkbench
from test.support.children import Workbench
from test.support.kill_at import FAILURE_POINTS, NODE_POINTS
from test.support.node import DEAD_LETTERS, STREAM, node_spec

pytestmark = pytest.mark.attack

TOTAL = 120
# Every message of this remainder fails at each attempt.
MODULUS, POISON = 6, 5
ATTEMPTS = 2
POISONED = [value for value in range(TOTAL) if value % MODULUS == POISON]
HEALTHY = [value for value in range(TOTAL) if value % MODULUS != POISON]
HANDLER = f"""
    async def handler(ctx, data: int):
        if data % {MODULUS} == {POISON}:
            raise ValueError("poison")
        return data
"""
SPEC = node_spec(
    retry=RetryPolicy(attempts=ATTEMPTS, first_s=0.05, factor=1.0, max_s=0.05, jitter=0.0),
    error_subject=f"{STREAM}.errors",
)
PASSES = {**dict.fromkeys(NODE_POINTS, 30), **dict.fromkeys(FAILURE_POINTS, 5)}


@pytest.mark.parametrize("point", PASSES)
async def test_a_kill_at_any_point_loses_and_repeats_nothing(open_workbench: OpenWorkbench, point: str) -> None:
    bench = await open_workbench(HANDLER, ack_wait_s=1.0)
    await bench.bus.key_value(f"attempts_{STREAM}", create=True)
    await bench.feed(range(TOTAL))
    victim = bench.launch_child(SPEC, module=("test.support.kill_at", point, str(PASSES[point])))
    assert await victim.exit_code() == -9, victim.log()

    await bench.start_child(SPEC)

    assert sorted(await bench.see(len(HEALTHY))) == HEALTHY
    await bench.settled()
    assert await bench.stored() == len(HEALTHY)
    assert (await bench.bus.stream_state(STREAM)).subjects[f"{STREAM}.errors"] == len(POISONED)
    letters = [DeadLetter.from_header(message.headers[HEADER]) for message in await dead_letters(bench)]
    # Inputs are stored in order, so the sequence of a value is known.
    assert sorted(letter.sequence for letter in letters) == [value + 1 for value in POISONED]
    assert {len(letter.attempts) for letter in letters} <= {ATTEMPTS}


async def dead_letters(bench: Workbench) -> list[StoredMessage]:
    state = await bench.bus.stream_state(DEAD_LETTERS)
    return [
        await bench.bus.get_message(DEAD_LETTERS, sequence)
        for sequence in range(state.first_sequence, state.last_sequence + 1)
    ]
