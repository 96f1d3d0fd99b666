"""Says which GPUs this process may use. No package is needed: it asks the driver's own library, as CUDA programs do."""

import ctypes

# Comes with the NVIDIA driver; its container toolkit puts it into a container that was started with a GPU.
DRIVER = "libcuda.so.1"
# CUresult of https://docs.nvidia.com/cuda/cuda-driver-api: done, and no GPU that this process may see.
SUCCESS, NO_DEVICE = 0, 100
MAX_NAME_BYTES = 256


class NoGpuError(Exception):
    """There is no GPU to work on; the message says why."""


def handler(ctx, data: dict) -> dict:
    try:
        gpus = visible_gpus()
    except NoGpuError as error:
        ctx.logger.info("working on the CPU: %s", error)
        return {"device": "cpu", "gpus": []}
    ctx.logger.info("working on %d GPU(s): %s", len(gpus), ", ".join(gpu["name"] for gpu in gpus))
    return {"device": "cuda", "gpus": gpus}


def visible_gpus() -> list[dict]:
    """Return name and memory of every GPU, in CUDA's order. Raises NoGpuError."""
    try:
        driver = ctypes.CDLL(DRIVER)
    except OSError:
        raise NoGpuError(f"there is no NVIDIA driver ({DRIVER})") from None
    code = driver.cuInit(0)
    if code == NO_DEVICE:
        raise NoGpuError("the NVIDIA driver shows no GPU")
    check(code, "cuInit")
    count = ctypes.c_int()
    check(driver.cuDeviceGetCount(ctypes.byref(count)), "cuDeviceGetCount")
    return [describe(driver, number) for number in range(count.value)]


def describe(driver: ctypes.CDLL, number: int) -> dict:
    device, memory_bytes = ctypes.c_int(), ctypes.c_size_t()
    name = ctypes.create_string_buffer(MAX_NAME_BYTES)
    check(driver.cuDeviceGet(ctypes.byref(device), number), "cuDeviceGet")
    check(driver.cuDeviceGetName(name, MAX_NAME_BYTES, device), "cuDeviceGetName")
    check(driver.cuDeviceTotalMem_v2(ctypes.byref(memory_bytes), device), "cuDeviceTotalMem")
    return {"name": name.value.decode(), "memory_mib": memory_bytes.value // 2**20}


def check(code: int, function: str) -> None:
    """Raise NoGpuError for a call that failed: a driver that does not fit its kernel module, say."""
    if code != SUCCESS:
        raise NoGpuError(f"the NVIDIA driver fails: {function} returned {code}")
