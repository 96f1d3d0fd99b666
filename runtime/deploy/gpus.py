"""Which replica gets which GPU of this machine: what `krt run` does about `resources: {gpu: …}`.

    pool = GpuPool(choose_gpus(await read_gpus(), "0,1"), sharing=False)
    pool.check(processes)                       # ConfigError where there are too few
    pool.lend("score/1", 0.5)                   # the variables of the replica; give_back("score/1") ends it

A whole GPU is one replica's alone; shares of one GPU are lent until they make up a whole. No share is enforced: CUDA
lets processes take turns on a GPU, and each may use all of its memory.
"""

import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import NamedTuple

from runtime.deploy.process import Process
from runtime.errors import ConfigError
from runtime.gpus import CUDA_VARIABLE, GPU_VARIABLES, FoundGpus, Gpu, gpu_named

log = logging.getLogger(__name__)

# What part of each of its GPUs is a process's own: 1, less where it shares one, 0 where it works on the CPU.
SHARE_VARIABLE = "KRT_GPU_SHARE"
# Without it, CUDA counts the fastest GPU as the first one, and `nvidia-smi` does not.
ORDER = {"CUDA_DEVICE_ORDER": "PCI_BUS_ID"}
# The word for no GPU, in the place of names.
NONE = "none"
# Shares are added up in hundredths of a GPU: whole numbers, which make up a whole exactly.
WHOLE = 100


class _Loan(NamedTuple):
    """What one replica has. part: of each of its GPUs, in hundredths."""

    gpus: tuple[Gpu, ...]
    part: int


class GpuPool:
    """The GPUs of this machine, and who has which. sharing: lend more than there is, in turn, instead of refusing."""

    def __init__(self, found: FoundGpus | None = None, *, sharing: bool = False) -> None:
        # None until somebody asks for GPUs: looking for them may take seconds.
        self.found = found
        self._sharing = sharing
        self._loans: dict[str, _Loan] = {}

    def check(self, processes: Iterable[Process]) -> None:
        """Raise ConfigError, with what each replica asks for, if these processes alone are too many for the GPUs."""
        if self._sharing or not self._gpus:
            return
        trial, wanted = GpuPool(self.found), _amounts(processes)
        if all(trial._try_to_take(name, amount) for name, amount in wanted.items()):
            return
        listed = ", ".join(f"{name} {amount:g}" for name, amount in wanted.items())
        raise ConfigError(
            f"this machine lends {len(self._gpus)} GPU{'s' * (len(self._gpus) > 1)}, which does not do for {listed}; "
            "lower resources.gpu or replicas, or let them share: --share-gpus"
        )

    def lend(self, replica: str, amount: float) -> Mapping[str, str]:
        """Return the variables of a replica that asks for so much; none for one that asks for nothing."""
        if not amount or self.found is None:
            return {}
        if not self._gpus:
            return {**dict.fromkeys(GPU_VARIABLES, ""), SHARE_VARIABLE: "0"}
        visible = ",".join(str(gpu.index) for gpu in self.take(replica, amount))
        return {**ORDER, CUDA_VARIABLE: visible, SHARE_VARIABLE: share_of_each(amount)}

    def take(self, replica: str, amount: float) -> tuple[Gpu, ...]:
        """Return the GPUs that a replica has from now on."""
        if not self._try_to_take(replica, amount):
            if not self._sharing:
                # Enough in sum, as `check` has found, but what goes on running has split it up.
                log.warning("%s shares its GPU with others until the next start", replica, extra={"action": "gpu"})
            self._take_least_used(replica, amount)
        return self._loans[replica].gpus

    def give_back(self, replica: str) -> None:
        """Take back what a replica has, if it has anything."""
        self._loans.pop(replica, None)

    def describe(self, processes: Iterable[Process]) -> str:
        """Return one line: the GPUs, or what runs on the CPU for want of one; "" where nothing asks for a GPU."""
        asking = [process.name for process in asking_for_gpus(processes)]
        if self.found is None or not asking:
            return ""
        if self._gpus:
            return f"GPUs      {', '.join(f'{gpu.index} {gpu.name}' for gpu in self._gpus)}"
        run = "runs" if len(asking) == 1 else "run"
        return f"no GPU on this machine ({self.found.reason}): {', '.join(asking)} {run} on the CPU"

    @property
    def _gpus(self) -> tuple[Gpu, ...]:
        return self.found.gpus if self.found else ()

    def _try_to_take(self, replica: str, amount: float) -> bool:
        """Take the first GPUs that have as much room, if there are enough."""
        count, part = _whole_and_part(amount)
        with_room = [gpu for gpu in self._gpus if self._used(gpu) + part <= WHOLE]
        if len(with_room) < count:
            return False
        self._loans[replica] = _Loan(tuple(with_room[:count]), part)
        return True

    def _take_least_used(self, replica: str, amount: float) -> None:
        count, part = _whole_and_part(amount)
        self._loans[replica] = _Loan(tuple(sorted(self._gpus, key=self._used)[:count]), part)

    def _used(self, gpu: Gpu) -> int:
        return sum(loan.part for loan in self._loans.values() if gpu in loan.gpus)


def choose_gpus(found: FoundGpus, names: str) -> FoundGpus:
    """Return the GPUs of these names alone: indexes and UUIDs with commas between, `none`, or "" for all.

    Raises ConfigError, with those that there are, for a name that no GPU has.
    """
    if not names:
        return found
    if names == NONE:
        return FoundGpus(reason=f"--gpus is {NONE}")
    wanted = {name: gpu_named(name, found.gpus) for part in names.split(",") if (name := part.strip())}
    if missing := [f'"{name}"' for name, gpu in wanted.items() if gpu is None]:
        there = ", ".join(f"{gpu.index} ({gpu.name}, {gpu.uuid})" for gpu in found.gpus) or f"none: {found.reason}"
        raise ConfigError(f"--gpus names {', '.join(missing)}, which is no GPU of this machine; it has {there}")
    return FoundGpus(tuple(dict.fromkeys(gpu for gpu in wanted.values() if gpu is not None)))


def _amounts(processes: Iterable[Process]) -> dict[str, float]:
    """Return what each replica asks for, in the order of their start."""
    return {name: process.resources.gpu for process in asking_for_gpus(processes) for name in process.replica_names()}


def asking_for_gpus(processes: Iterable[Process]) -> list[Process]:
    """Return the processes that ask for GPUs, in the order of their start."""
    return [process for process in sorted(processes, key=lambda each: each.stage) if process.resources.gpu]


def with_gpu_variables(processes: Sequence[Process]) -> list[Process]:
    """Return the processes with what is known of their GPUs before a machine is.

    As soon as one asks for GPUs, all others see none: they would use those that are somebody else's. While none does,
    all see what the environment shows them.
    """
    if not asking_for_gpus(processes):
        return list(processes)
    return [replace(process, environment={**_variables(process), **process.environment}) for process in processes]


def _variables(process: Process) -> dict[str, str]:
    if not process.resources.gpu:
        return dict.fromkeys(GPU_VARIABLES, "")
    return {SHARE_VARIABLE: share_of_each(process.resources.gpu)}


def share_of_each(amount: float) -> str:
    """Return what part of each of its GPUs belongs to a process that asks for so much."""
    return f"{min(amount, 1):g}"


def _whole_and_part(amount: float) -> tuple[int, int]:
    """Return how many GPUs an amount is, and what part of each, in hundredths."""
    return (1, round(amount * WHOLE)) if amount < 1 else (round(amount), WHOLE)
