"""The profile of the benchmark: which stage a look falls into, and the table that is made of the looks."""

import signal
import sys
import time
from collections import Counter
from collections.abc import Sequence
from types import FrameType, FunctionType

import pytest

from test.bench import stages
from test.bench.peers import sampled_node
from test.bench.sampler import Sampler


def inner(sampler: Sampler) -> str:
    return sampler.stage_of(sys._getframe())


def outer(sampler: Sampler) -> str:
    return inner(sampler)


def spin(seconds: float) -> None:
    end_s = time.process_time() + seconds
    while time.process_time() < end_s:
        pass


@pytest.mark.parametrize(
    ("functions", "stage"),
    [((outer, inner), "inner"), ((outer,), "outer"), ((), "rest")],
    ids=["both", "outer", "none"],
)
def test_a_frame_belongs_to_the_innermost_stage_that_it_is_in(functions: Sequence[FunctionType], stage: str) -> None:
    sampler = Sampler({function.__code__: function.__name__ for function in functions}, rest="rest")

    assert outer(sampler) == stage


def test_a_function_that_has_only_begun_takes_no_time_yet() -> None:
    begun: list[str] = []
    sampler = Sampler({outer.__code__: "outer", inner.__code__: "inner"}, rest="rest")

    def trace(frame: FrameType, event: str, _: object) -> None:
        if event == "call" and frame.f_code is inner.__code__:
            begun.append(sampler.stage_of(frame))

    sys.settrace(trace)
    try:
        outer(sampler)
    finally:
        sys.settrace(None)

    assert begun == ["outer"]


def test_looks_come_while_the_processor_works_and_end_with_stop() -> None:
    before = signal.getsignal(signal.SIGPROF)
    sampler = Sampler({spin.__code__: "spin"}, rest="rest")

    sampler.start()
    try:
        spin(0.2)
    finally:
        sampler.stop()
    looks = sampler.counts.total()
    spin(0.05)
    signal.signal(signal.SIGPROF, before)

    assert sampler.counts["spin"] > 10
    assert sampler.counts["spin"] >= 0.9 * looks
    assert sampler.counts.total() == looks


def test_the_table_shares_the_processor_time_out_by_looks() -> None:
    first = (Counter(run=30, loop=10), 40.0)
    second = (Counter(run=10, loop=10), 60.0)

    rows = {row.who: row for row in stages.rows([first, second])}

    assert list(rows) == [*stages.STAGES, "node"]
    assert (rows["run"].value, rows["run"].low, rows["run"].high) == (30.0, 30.0, 30.0)
    assert (rows["loop"].value, rows["loop"].low, rows["loop"].high) == (20.0, 10.0, 30.0)
    assert (rows["node"].value, rows["node"].ratio) == (50.0, None)
    assert rows["run"].ratio == pytest.approx(0.6)
    assert rows["read"].value == 0


def test_every_stage_that_a_node_tells_has_a_row() -> None:
    told = {*sampled_node.stages_by_code().values(), sampled_node.HANDLER, sampled_node.REST}

    assert told == set(stages.STAGES)
