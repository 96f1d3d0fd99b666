"""Answers that are repeated, and starts that are limited."""

from runtime.models.call_memory import REMEMBERED, CallMemory
from runtime.models.model_process import MAX_DELAY_S, RestartLimit


async def test_an_answer_is_remembered_and_a_running_call_joined() -> None:
    memory: CallMemory[str] = CallMemory()
    expected = memory.expect("a")
    joined = memory.recall("a")

    expected.set_result("done")

    assert joined is not None
    assert await joined == "done"
    assert memory.recall("b") is None


async def test_the_oldest_answer_is_forgotten_first() -> None:
    memory: CallMemory[str] = CallMemory()

    for number in range(REMEMBERED + 1):
        memory.expect(str(number)).set_result("done")
        memory.trim()

    assert memory.recall("0") is None
    assert memory.recall("1") is not None


async def test_a_call_that_did_not_run_is_forgotten() -> None:
    memory: CallMemory[str] = CallMemory()
    memory.expect("a")

    memory.forget("a")
    memory.forget("never")

    assert memory.recall("a") is None


def test_restarts_are_counted_in_a_window_and_wait_longer_each_time() -> None:
    limit = RestartLimit(max_restarts=3, window_s=100)

    assert [limit.note(at_s) for at_s in (0, 1, 2, 3)] == [0.2, 0.4, 0.8, None]
    assert limit.note(100.5) == 0.8
    assert limit.note(100.6) is None
    assert limit.note(300) == 0.2


def test_no_delay_is_longer_than_the_maximum() -> None:
    limit = RestartLimit(max_restarts=50, window_s=1000)

    delays = [limit.note(0) for _ in range(50)]

    assert delays[-1] == MAX_DELAY_S


def test_without_restarts_the_first_end_is_the_last() -> None:
    assert RestartLimit(max_restarts=0, window_s=100).note(0) is None
