"""The example `cuda-smoke` on machines that are not here: with GPUs, without a driver, and with a broken one."""

import ctypes
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from runtime.testing import run_workflow

WORKFLOW = Path(__file__).parents[2] / "workflows" / "cuda-smoke"


class StandinDriver:
    """Answers as `libcuda.so.1` does. gpus: name and bytes of memory of each."""

    def __init__(self, gpus: Sequence[tuple[str, int]], *, init_code: int = 0) -> None:
        self._gpus = gpus
        self._init_code = init_code

    def cuInit(self, flags: int) -> int:
        return self._init_code

    def cuDeviceGetCount(self, count: Any) -> int:
        count._obj.value = len(self._gpus)
        return 0

    def cuDeviceGet(self, device: Any, number: int) -> int:
        device._obj.value = number
        return 0

    def cuDeviceGetName(self, name: Any, size_bytes: int, device: ctypes.c_int) -> int:
        name.value = self._gpus[device.value][0].encode()
        return 0

    def cuDeviceTotalMem_v2(self, memory_bytes: Any, device: ctypes.c_int) -> int:
        memory_bytes._obj.value = self._gpus[device.value][1]
        return 0


def answer_with(monkeypatch: pytest.MonkeyPatch, driver: StandinDriver | None) -> Any:
    def load(name: str) -> StandinDriver:
        assert name == "libcuda.so.1"
        if driver is None:
            raise OSError("cannot open shared object file")
        return driver

    with run_workflow(WORKFLOW) as workflow:
        monkeypatch.setattr(ctypes, "CDLL", load)
        answer = workflow.send({})
        monkeypatch.undo()
    return answer


def test_every_visible_gpu_is_named(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)

    answer = answer_with(monkeypatch, StandinDriver([("NVIDIA A", 8 * 2**30), ("NVIDIA B", 2**30)]))

    assert answer == {
        "device": "cuda",
        "gpus": [{"name": "NVIDIA A", "memory_mib": 8192}, {"name": "NVIDIA B", "memory_mib": 1024}],
    }
    assert "working on 2 GPU(s): NVIDIA A, NVIDIA B" in caplog.messages


@pytest.mark.parametrize(
    ("driver", "line"),
    [
        (None, "working on the CPU: there is no NVIDIA driver (libcuda.so.1)"),
        (StandinDriver([], init_code=100), "working on the CPU: the NVIDIA driver shows no GPU"),
        (StandinDriver([], init_code=803), "working on the CPU: the NVIDIA driver fails: cuInit returned 803"),
    ],
    ids=["no driver", "no GPU", "a driver that does not fit"],
)
def test_without_a_gpu_one_line_says_why_and_the_answer_is_made_on_the_cpu(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, driver: StandinDriver | None, line: str
) -> None:
    caplog.set_level(logging.INFO)

    answer = answer_with(monkeypatch, driver)

    assert answer == {"device": "cpu", "gpus": []}
    assert [message for message in caplog.messages if message.startswith("working on")] == [line]
