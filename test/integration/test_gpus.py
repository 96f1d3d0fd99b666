"""The GPUs of a machine, and those of a supervisor's children. `nvidia-smi` is a stand-in but for the last test."""

import asyncio
import os
import shutil
import signal
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from runtime import gpus
from runtime.clock import settle
from runtime.deploy.gpus import GpuPool
from runtime.deploy.process import Process, Readiness, RestartPolicy
from runtime.deploy.supervisor import Supervisor
from runtime.gpus import FoundGpus, read_gpus
from runtime.node import gpu_watch
from runtime.node.gpu_watch import GpuWatch
from runtime.spec.resources import ProcessResources
from test.support.nvidia_smi import UUIDS, install, install_script

TIMEOUT_S = 20
TELL = "import os, time; print(os.environ['CUDA_VISIBLE_DEVICES'], os.environ['KRT_GPU_SHARE']); time.sleep(600)"


async def test_the_driver_is_asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    install(tmp_path, monkeypatch, gpus=2)

    found = await read_gpus({})

    assert [(gpu.index, gpu.uuid, gpu.used_mib, gpu.utilisation) for gpu in found.gpus] == [
        (0, UUIDS[0], 0, 0),
        (1, UUIDS[1], 1024, 10),
    ]


@pytest.mark.parametrize(
    ("visible", "indexes"), [("2,0", [2, 0]), (UUIDS[1], [1]), ("0,9,1", [0]), ("", []), ("-1", [])]
)
async def test_only_those_that_the_environment_leaves_are_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, visible: str, indexes: list[int]
) -> None:
    install(tmp_path, monkeypatch, gpus=3)

    found = await read_gpus({"CUDA_VISIBLE_DEVICES": visible})

    assert [gpu.index for gpu in found.gpus] == indexes
    assert found.reason == ("" if indexes else f"CUDA_VISIBLE_DEVICES is '{visible}'")


async def test_without_the_program_there_is_no_gpu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))

    assert await read_gpus({}) == FoundGpus(reason="nvidia-smi: not found")


async def test_a_driver_that_hangs_is_not_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    install_script(tmp_path, monkeypatch, ["exec sleep 600"])
    monkeypatch.setattr(gpus, "ANSWER_TIMEOUT_S", 0.1)

    assert await read_gpus({}) == FoundGpus(reason="nvidia-smi: no answer within 0.1 s")


class Children:
    """Processes under a supervisor with two GPUs, and what each replica has told."""

    def __init__(self, pool: GpuPool) -> None:
        self.told: list[tuple[str, str]] = []
        self._news = asyncio.Event()
        self.supervisor = Supervisor(
            on_line=self._take,
            command=(sys.executable, "-S", "-u", "-c"),
            policy=RestartPolicy(first_delay_s=0.01),
            gpus=pool,
        )

    def _take(self, name: str, line: str) -> None:
        self.told.append((name, line))
        self._news.set()

    async def until(self, condition: Callable[[], bool]) -> None:
        async with asyncio.timeout(TIMEOUT_S):
            while not condition():
                self._news.clear()
                await self._news.wait()


def child(name: str, gpu: float, *, replicas: int = 1) -> Process:
    return Process(
        name=name,
        arguments=(TELL,),
        replicas=replicas,
        ready=Readiness.STARTED,
        resources=ProcessResources(gpu=gpu),
    )


@pytest.fixture
async def pool(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> GpuPool:
    install(tmp_path, monkeypatch, gpus=2)
    return GpuPool(await read_gpus({}))


async def test_every_replica_sees_its_own_gpus(pool: GpuPool) -> None:
    children = Children(pool)

    async with children.supervisor as supervisor:
        await supervisor.start([child("ocr", 0.5, replicas=2), child("classify", 1)])
        await children.until(lambda: len(children.told) == 3)

    assert sorted(children.told) == [("classify", "1 1"), ("ocr/1", "0 0.5"), ("ocr/2", "0 0.5")]


async def test_a_replica_that_was_killed_keeps_its_gpu(pool: GpuPool) -> None:
    children = Children(pool)
    async with children.supervisor as supervisor:
        await supervisor.start([child("a", 1), child("b", 1)])
        await children.until(lambda: len(children.told) == 2)

        (pid,) = [status.pid for status in supervisor.states() if status.name == "a"]
        assert pid is not None
        os.kill(pid, signal.SIGKILL)

        await children.until(lambda: len(children.told) == 3)

    assert children.told[2] == ("a", "0 1")


async def test_a_process_with_more_replicas_gets_the_gpus_that_an_ended_one_had(pool: GpuPool) -> None:
    children = Children(pool)
    async with children.supervisor as supervisor:
        await supervisor.start([first := child("ocr", 1), child("old", 1)])
        await children.until(lambda: len(children.told) == 2)
        children.told.clear()

        await supervisor.update([replace(first, replicas=2)])

        await children.until(lambda: len(children.told) == 2)

    assert sorted(children.told) == [("ocr/1", "0 1"), ("ocr/2", "1 1")]


async def test_a_removed_process_gives_its_gpu_back(pool: GpuPool) -> None:
    children = Children(pool)
    async with children.supervisor as supervisor:
        await supervisor.start([child("old", 2)])
        await children.until(lambda: len(children.told) == 1)

        await supervisor.remove("old")

        await supervisor.start([child("new", 1)])
        await children.until(lambda: len(children.told) == 2)

    assert children.told[1] == ("new", "0 1")


async def test_a_node_tells_the_gpus_that_it_was_given_and_its_share(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    install(tmp_path, monkeypatch, gpus=2)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "1")
    answered = asyncio.Event()

    async def read() -> FoundGpus:
        answered.set()
        return await read_gpus()

    monkeypatch.setattr(gpu_watch, "read_gpus", read)
    monkeypatch.setattr(gpu_watch, "ASK_EVERY_S", 0.0)
    async with GpuWatch(0.5) as watch, asyncio.timeout(TIMEOUT_S):
        for _ in range(2):  # by the second question the first one is answered
            answered.clear()
            await answered.wait()
        told = watch.told()

    figures = {"total_mib": 143771, "used_mib": 1024, "utilisation": 10}
    assert told == {"gpus": [{"index": 1, "uuid": UUIDS[1], "name": "NVIDIA H200", **figures}], "gpu_share": 0.5}


async def test_a_node_that_was_given_none_asks_nobody_and_tells_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = tmp_path / "asked"
    install_script(tmp_path, monkeypatch, [f"touch {asked}"])

    async with GpuWatch(0) as watch:
        await settle()

        assert watch.told() == {}
    assert not asked.exists()


async def test_a_node_that_finds_no_gpu_says_so_in_one_line(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")

    async with GpuWatch(1) as watch:
        await settle()

        assert watch.told() == {}
    assert caplog.messages == ["no GPU here (CUDA_VISIBLE_DEVICES is ''): the node works on the CPU"]


@pytest.mark.gpu
async def test_a_real_driver_tells_of_a_real_gpu() -> None:
    if shutil.which(gpus.PROGRAM) is None:
        pytest.skip("no GPU here: nvidia-smi is not on PATH")

    found = await read_gpus({})

    assert found.gpus, found.reason
    for gpu in found.gpus:
        assert gpu.uuid.startswith("GPU-")
        assert (gpu.total_mib or 0) > (gpu.used_mib or 0) >= 0
