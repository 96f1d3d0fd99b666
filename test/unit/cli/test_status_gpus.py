"""The GPUs that `krt status` finds in the records of processes."""

import io
from typing import Any

from rich.console import Console

from runtime.bus.presence import ServiceRecord
from runtime.cli.status_gpus import GpuStatus, gpu_table, gpus_of
from runtime.gpus import Gpu


def record(name: str, *gpus: dict[str, Any], host: str = "lab", replica: int = 0, share: float = 1) -> ServiceRecord:
    return ServiceRecord(
        kind="node",
        name=name,
        instance="a",
        version="1",
        host=host,
        pid=1,
        started_ms=0,
        replica=replica,
        metadata={"gpus": list(gpus), "gpu_share": share},
    )


def told(index: int, *, host: str = "lab", used_mib: int | None = 512) -> dict[str, Any]:
    uuid = f"GPU-{host}-{index}"
    return {
        "index": index,
        "uuid": uuid,
        "name": "NVIDIA A",
        "total_mib": 2048,
        "used_mib": used_mib,
        "utilisation": 37,
    }


def test_a_gpu_that_several_hold_is_shown_once_with_all_of_them() -> None:
    records = [record("ocr", told(0), replica=number, share=0.5) for number in (1, 2)]

    (gpu,) = gpus_of([*records, record("clean", told(0))])

    assert gpu == GpuStatus(host="lab", gpu=Gpu(**told(0)), holders=("ocr/1 (0.5)", "ocr/2 (0.5)", "clean"))


def test_gpus_of_several_hosts_stand_apart_although_each_has_a_first_one() -> None:
    found = gpus_of([record("b", told(0, host="two"), host="two"), record("a", told(1), told(0))])

    assert [(each.host, each.gpu.index, each.holders) for each in found] == [
        ("lab", 0, ("a",)),
        ("lab", 1, ("a",)),
        ("two", 0, ("b",)),
    ]


def test_processes_without_a_gpu_show_nothing() -> None:
    assert gpus_of([record("clean"), ServiceRecord.of_this_process("writer", "writer")]) == ()


def test_a_record_of_another_version_is_left_out() -> None:
    assert gpus_of([record("later", {**told(0), "temperature": 40})]) == ()


def test_the_table_has_memory_use_and_holders() -> None:
    console = Console(file=io.StringIO(), width=120)

    console.print(gpu_table(gpus_of([record("ocr", told(0)), record("old", told(1, used_mib=None))])))

    assert isinstance(console.file, io.StringIO)
    assert [line.split() for line in console.file.getvalue().splitlines()] == [
        ["GPU", "name", "host", "memory", "used", "held", "by"],
        ["0", "NVIDIA", "A", "lab", "0.5", "/", "2.0", "GiB", "37", "%", "ocr"],
        ["1", "NVIDIA", "A", "lab", "?", "/", "2.0", "GiB", "37", "%", "old"],
    ]
