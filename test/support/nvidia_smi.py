"""A stand-in for NVIDIA's `nvidia-smi`, for machines without a GPU: a program that prints what the real one does."""

from collections.abc import Sequence
from pathlib import Path

import pytest

UUIDS = tuple(f"GPU-{number}d5ba0d6-d33d-2b2c-524d-9e3d8d2b8a77" for number in range(8))


def install(folder: Path, monkeypatch: pytest.MonkeyPatch, gpus: int) -> None:
    """Let the tests, and the processes that they start, find a machine with so many GPUs."""
    lines = [
        f"{number}, {UUIDS[number]}, NVIDIA H200, 143771, {1024 * number}, {10 * number}" for number in range(gpus)
    ]
    install_script(folder, monkeypatch, [f"echo '{line}'" for line in lines])


def install_script(folder: Path, monkeypatch: pytest.MonkeyPatch, commands: Sequence[str]) -> None:
    """Let them find a `nvidia-smi` that is this shell script."""
    program = folder / "driver" / "nvidia-smi"
    program.parent.mkdir(exist_ok=True)
    program.write_text("\n".join(["#!/bin/sh", *commands, ""]))
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(program.parent), prepend=":")
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
