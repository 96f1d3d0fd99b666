"""What `nvidia-smi` prints, as GPUs or as the reason for none."""

from pathlib import Path

import pytest

from runtime.gpus import FoundGpus, Gpu, gpu_named, parse_answer, visible_gpus

UUIDS = ("GPU-5d5ba0d6-d33d-2b2c-524d-9e3d8d2b8a77", "GPU-c6d4f1ef-42e4-5de3-91c7-45d71c87eb3f")
# Copied from a machine with two GPUs, and one whose driver does not count the use of an old card.
TWO = f"0, {UUIDS[0]}, NVIDIA H200, 143771, 4, 0\n1, {UUIDS[1]}, NVIDIA H200, 143771, 20480, 97\n"
OLD = f"0, {UUIDS[0]}, Quadro K420, 1996, [N/A], [Not Supported]\n"
NO_DRIVER = (
    "NVIDIA-SMI has failed because it couldn't communicate with the NVIDIA driver. "
    "Make sure that the latest NVIDIA driver is installed and running.\n"
)


def test_every_line_is_a_gpu() -> None:
    found = parse_answer(TWO, 0)

    assert found == FoundGpus(
        (
            Gpu(index=0, uuid=UUIDS[0], name="NVIDIA H200", total_mib=143771, used_mib=4, utilisation=0),
            Gpu(index=1, uuid=UUIDS[1], name="NVIDIA H200", total_mib=143771, used_mib=20480, utilisation=97),
        )
    )


def test_figures_that_the_driver_does_not_tell_are_none() -> None:
    (gpu,) = parse_answer(OLD, 0).gpus

    assert (gpu.total_mib, gpu.used_mib, gpu.utilisation) == (1996, None, None)


def test_a_gpu_that_has_fallen_off_the_bus_is_left_out() -> None:
    lost = "Unable to determine the device handle for GPU 0000:41:00.0: Unknown Error\n"

    found = parse_answer(lost + TWO.splitlines()[1], 0)

    assert [gpu.index for gpu in found.gpus] == [1]


@pytest.mark.parametrize(
    ("printed", "exit_code", "reason"),
    [
        (NO_DRIVER, 9, "nvidia-smi: NVIDIA-SMI has failed because it couldn't communicate with the NVIDIA driver."),
        ("No devices were found\n", 6, "nvidia-smi: No devices were found"),
        ("No devices were found\n", 0, "nvidia-smi: No devices were found"),
        ("", 12, "nvidia-smi: ended with 12"),
        (TWO, 15, "nvidia-smi: 0, GPU-"),
    ],
    ids=["no driver", "no devices", "no devices, and no failure", "nothing", "a failure after its lines"],
)
def test_without_a_gpu_its_first_line_is_the_reason(printed: str, exit_code: int, reason: str) -> None:
    found = parse_answer(printed, exit_code)

    assert found.gpus == ()
    assert found.reason.startswith(reason)
    assert len(found.reason) < 140


def test_a_gpu_is_named_by_its_index_or_its_whole_uuid() -> None:
    gpus = parse_answer(TWO, 0).gpus

    assert [gpu_named(name, gpus) for name in ("1", UUIDS[0], UUIDS[0][:8], "2")] == [gpus[1], gpus[0], None, None]


def test_the_environment_leaves_some_gpus_of_those_that_the_driver_lists(tmp_path: Path) -> None:
    for name in ("0000:41:00.0", "0000:42:00.0"):
        (tmp_path / name).mkdir()

    assert visible_gpus({}, tmp_path) == ["0", "1"]
    assert visible_gpus({"CUDA_VISIBLE_DEVICES": "1, GPU-5d"}, tmp_path) == ["1", "GPU-5d"]
    assert visible_gpus({"CUDA_VISIBLE_DEVICES": ""}, tmp_path) == []
    assert visible_gpus({}, tmp_path / "none") == []
