"""The GPUs of this machine: how many there are, and what NVIDIA's driver tells of them through `nvidia-smi`.

Which process gets which of them is `deploy/gpus.py`.
"""

import asyncio
import os
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

# Where NVIDIA's driver lists its devices.
DEVICES = Path("/proc/driver/nvidia/gpus")
# What CUDA, and what ROCm, takes for the devices that there are; an empty value hides all.
CUDA_VARIABLE = "CUDA_VISIBLE_DEVICES"
GPU_VARIABLES = (CUDA_VARIABLE, "HIP_VISIBLE_DEVICES")

PROGRAM = "nvidia-smi"
QUERY = ("--query-gpu=index,uuid,name,memory.total,memory.used,utilization.gpu", "--format=csv,noheader,nounits")
# Seconds for one answer: without a process that keeps it, the driver is loaded anew, which takes a second per GPU.
ANSWER_TIMEOUT_S = 10.0
# Characters of what the program printed that the reason for no GPU quotes.
QUOTED = 120


@dataclass(frozen=True, slots=True, kw_only=True)
class Gpu:
    """One GPU. index: by its place on the bus. utilisation: percent. None for figures that the driver does not tell."""

    index: int
    uuid: str
    name: str
    total_mib: int | None = None
    used_mib: int | None = None
    utilisation: int | None = None


@dataclass(frozen=True, slots=True)
class FoundGpus:
    """The GPUs that there are. reason: why there are none, "" where there are some."""

    gpus: tuple[Gpu, ...] = ()
    reason: str = ""


def visible_gpus(environ: Mapping[str, str] = os.environ, devices: Path = DEVICES) -> list[str]:
    """Return the devices that this process may use, by number or name: all, or those that its environment leaves."""
    if CUDA_VARIABLE in environ:
        return _names(environ[CUDA_VARIABLE])
    return [str(number) for number in range(len(list(devices.iterdir())))] if devices.is_dir() else []


async def read_gpus(environ: Mapping[str, str] = os.environ) -> FoundGpus:
    """Ask the driver for the GPUs that this process may use, in the order of its environment; takes up to 10 s."""
    if CUDA_VARIABLE not in environ:
        return await _ask()
    names = _names(environ[CUDA_VARIABLE])
    found = await _ask() if names else FoundGpus()
    gpus = _visible(found.gpus, names)
    return FoundGpus(gpus, "" if gpus else found.reason or f"{CUDA_VARIABLE} is '{environ[CUDA_VARIABLE]}'")


def gpu_named(name: str, gpus: Sequence[Gpu]) -> Gpu | None:
    """Return the GPU of this index or UUID, None where there is no such one."""
    return next((gpu for gpu in gpus if name in (str(gpu.index), gpu.uuid)), None)


def _visible(gpus: Sequence[Gpu], names: Sequence[str]) -> tuple[Gpu, ...]:
    """Return the GPUs of these names, as CUDA does: one that is not there hides itself and all behind it."""
    visible: list[Gpu] = []
    for name in names:
        gpu = gpu_named(name, gpus)
        if gpu is None:
            break
        visible.append(gpu)
    return tuple(visible)


async def _ask() -> FoundGpus:
    try:
        process = await asyncio.create_subprocess_exec(
            PROGRAM, *QUERY, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
        )
    except OSError as error:
        return FoundGpus(reason=f"{PROGRAM}: {'not found' if isinstance(error, FileNotFoundError) else error}")
    try:
        async with asyncio.timeout(ANSWER_TIMEOUT_S):
            printed, _ = await process.communicate()
    except TimeoutError:
        return FoundGpus(reason=f"{PROGRAM}: no answer within {ANSWER_TIMEOUT_S:g} s")
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    return parse_answer(printed.decode(errors="replace"), process.returncode or 0)


def parse_answer(printed: str, exit_code: int) -> FoundGpus:
    """Read what `nvidia-smi` printed: a line of comma-separated values for each GPU, or why there is none."""
    lines = printed.splitlines()
    gpus = tuple(gpu for line in lines if (gpu := _parse_line(line)) is not None) if exit_code == 0 else ()
    if gpus:
        return FoundGpus(gpus)
    said = next((line.strip()[:QUOTED] for line in lines if line.strip()), f"ended with {exit_code}")
    return FoundGpus(reason=f"{PROGRAM}: {said}")


def _parse_line(line: str) -> Gpu | None:
    """Return the GPU of a line; None for one about a GPU that has fallen off the bus, or that is no list of values."""
    values = [value.strip() for value in line.split(",")]
    if len(values) != len(QUERY[0].split(",")) or not values[0].isdecimal():
        return None
    index, uuid, name, *figures = values
    total_mib, used_mib, utilisation = (int(figure) if figure.isdecimal() else None for figure in figures)
    return Gpu(index=int(index), uuid=uuid, name=name, total_mib=total_mib, used_mib=used_mib, utilisation=utilisation)


def _names(text: str) -> list[str]:
    return [name for part in text.split(",") if (name := part.strip())]
