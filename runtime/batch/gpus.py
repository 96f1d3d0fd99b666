"""The GPUs of this host, as a run is given or denied them."""

import os
from collections.abc import Mapping
from pathlib import Path

# Where NVIDIA's driver lists its devices.
DEVICES = Path("/proc/driver/nvidia/gpus")
# What CUDA, and what ROCm, takes for the devices that there are; an empty value hides all.
CUDA_VARIABLE = "CUDA_VISIBLE_DEVICES"
GPU_VARIABLES = (CUDA_VARIABLE, "HIP_VISIBLE_DEVICES")


def visible_gpus(environ: Mapping[str, str] = os.environ, devices: Path = DEVICES) -> list[str]:
    """Return the devices that this process may use, by number or name: all, or those that its environment leaves."""
    if CUDA_VARIABLE in environ:
        return [name for part in environ[CUDA_VARIABLE].split(",") if (name := part.strip())]
    return [str(number) for number in range(len(list(devices.iterdir())))] if devices.is_dir() else []
