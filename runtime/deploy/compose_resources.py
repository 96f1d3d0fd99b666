"""What `resources` of a workflow file are in a compose file: limits, and the GPUs of each container. Pure."""

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from runtime.deploy.gpus import NONE, GpuPool, asking_for_gpus
from runtime.deploy.process import Process
from runtime.gpus import FoundGpus, Gpu
from runtime.spec.resources import ProcessResources

# Bytes by compose's units, largest first; sizes of a workflow file are whole numbers of the smallest.
UNITS = {"g": 1024**3, "m": 1024**2, "k": 1024}


class Devices:
    """The GPUs of the engine's machine by their ids, and which container has which.

    ids: with commas between; "" counts from 0 as far as it takes, `none` leaves all containers without. Not a count for
    each container: an engine would give the first ones to all of them.
    """

    def __init__(self, processes: Sequence[Process], ids: str, *, sharing: bool) -> None:
        """Raises ConfigError where the ids are too few."""
        wanted = sum(math.ceil(process.resources.gpu) * process.replicas for process in asking_for_gpus(processes))
        named = [part.strip() for part in ids.split(",")] if ids else [str(number) for number in range(wanted)]
        gpus = tuple(Gpu(index=number, uuid=each, name="") for number, each in enumerate(named) if ids != NONE)
        self._pool = GpuPool(FoundGpus(gpus), sharing=sharing)
        self._pool.check(processes)
        self._any = bool(gpus)

    def take(self, process: Process) -> list[str]:
        """Return the ids of the GPUs of a process's container."""
        if not (self._any and process.resources.gpu):
            return []
        return [gpu.uuid for gpu in self._pool.take(process.name, process.resources.gpu)]


def containers_of(process: Process) -> list[Process]:
    """Return a process as it is, but for replicas with GPUs: those of one service would all be given the same."""
    if not process.resources.gpu or process.replicas == 1:
        return [process]
    return [replace(process, name=f"{process.name}-{number}", replicas=1) for number in range(1, process.replicas + 1)]


def resource_keys(resources: ProcessResources, gpus: Sequence[str]) -> dict[str, Any]:
    """Return `deploy.resources` of a service; {} for one without limits and GPUs."""
    limits: dict[str, str] = {}
    if resources.cpu is not None:
        limits["cpus"] = f"{resources.cpu:g}"
    if resources.memory_bytes is not None:
        limits["memory"] = _size(resources.memory_bytes)
    keys: dict[str, Any] = {"limits": limits} if limits else {}
    if gpus:
        device = {"driver": "nvidia", "device_ids": list(gpus), "capabilities": ["gpu"]}
        keys["reservations"] = {"devices": [device]}
    return keys


def _size(size_bytes: int) -> str:
    unit = next(unit for unit, factor in UNITS.items() if size_bytes % factor == 0)
    return f"{size_bytes // UNITS[unit]}{unit}"
