"""The GPUs in `krt status`: what the processes of a workflow tell about those that they were given."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from runtime.bus.presence import ServiceRecord
from runtime.gpus import Gpu
from runtime.spec import names

if TYPE_CHECKING:
    from rich.console import RenderableType

MIB_OF_GIB = 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class GpuStatus:
    """One GPU. host: of the first process that tells of it. holders: `classify/1`, or `ocr (0.5)` with a share."""

    host: str
    gpu: Gpu
    holders: tuple[str, ...]


def gpus_of(records: Iterable[ServiceRecord]) -> tuple[GpuStatus, ...]:
    """Return the GPUs that processes tell of, each once, by host and index."""
    found: dict[str, GpuStatus] = {}
    for record in records:
        for gpu in _told(record.metadata):
            before = found.get(gpu.uuid)
            found[gpu.uuid] = GpuStatus(
                host=before.host if before else record.host,
                gpu=gpu,
                holders=(*(before.holders if before else ()), _holder(record)),
            )
    return tuple(sorted(found.values(), key=lambda each: (each.host, each.gpu.index)))


def gpu_table(gpus: Iterable[GpuStatus]) -> "RenderableType":
    """Return the table of the GPUs."""
    from rich.table import Table

    table = Table(box=None, pad_edge=False)
    for heading in ("GPU", "name", "host"):
        table.add_column(heading)
    for heading in ("memory", "used"):
        table.add_column(heading, justify="right")
    table.add_column("held by")
    for each in gpus:
        gpu = each.gpu
        used = "?" if gpu.utilisation is None else f"{gpu.utilisation} %"
        table.add_row(str(gpu.index), gpu.name, each.host, _memory(gpu), used, ", ".join(each.holders))
    return table


def _told(metadata: Mapping[str, Any]) -> list[Gpu]:
    """Return the GPUs of a record; none of one that another version has written in another form."""
    try:
        return [Gpu(**each) for each in metadata.get(names.GPUS, ())]
    except TypeError:
        return []


def _holder(record: ServiceRecord) -> str:
    name = f"{record.name}/{record.replica}" if record.replica else record.name
    share = record.metadata.get(names.GPU_SHARE, 1)
    return name if share == 1 else f"{name} ({share:g})"


def _memory(gpu: Gpu) -> str:
    used, total = ("?" if mib is None else f"{mib / MIB_OF_GIB:.1f}" for mib in (gpu.used_mib, gpu.total_mib))
    return f"{used} / {total} GiB"
