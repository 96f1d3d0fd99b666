"""Which replica gets which GPU: whole ones, shares, too few of them, and none."""

import pytest

from runtime.deploy.gpus import GpuPool, choose_gpus, with_gpu_variables
from runtime.deploy.process import Process
from runtime.errors import ConfigError
from runtime.gpus import FoundGpus, Gpu
from runtime.spec.resources import ProcessResources

NO_GPU = FoundGpus(reason="nvidia-smi: not found")
HIDDEN = {"CUDA_VISIBLE_DEVICES": "", "HIP_VISIBLE_DEVICES": ""}


def machine(count: int) -> FoundGpus:
    return FoundGpus(tuple(Gpu(index=number, uuid=f"GPU-{number}", name="NVIDIA A") for number in range(count)))


def process(name: str, gpu: float = 0, *, replicas: int = 1, stage: int = 0, **environment: str) -> Process:
    resources = ProcessResources(gpu=gpu)
    return Process(
        name=name, arguments=(), replicas=replicas, stage=stage, environment=environment, resources=resources
    )


def lent(pool: GpuPool, *amounts: float) -> list[str]:
    """Return the devices of one replica after the other: `a`, `b` and so on."""
    return [pool.lend(chr(97 + number), amount)["CUDA_VISIBLE_DEVICES"] for number, amount in enumerate(amounts)]


@pytest.mark.parametrize(
    ("gpus", "amounts", "devices"),
    [
        (2, [1, 1], ["0", "1"]),
        (1, [0.5, 0.5], ["0", "0"]),
        (2, [0.5, 1, 0.5], ["0", "1", "0"]),
        (2, [0.6, 0.5, 0.4, 0.5], ["0", "1", "0", "1"]),
        (3, [0.3, 2], ["0", "1,2"]),
        (1, [0.1] * 10, ["0"] * 10),
        (4, [4], ["0,1,2,3"]),
    ],
)
def test_each_gets_the_first_gpus_with_room_for_it(gpus: int, amounts: list[float], devices: list[str]) -> None:
    pool = GpuPool(machine(gpus))

    assert lent(pool, *amounts) == devices


def test_a_replica_is_told_its_devices_their_order_and_its_share() -> None:
    pool = GpuPool(machine(3))

    whole, part = pool.lend("a", 2), pool.lend("b", 0.25)

    order = {"CUDA_DEVICE_ORDER": "PCI_BUS_ID"}
    assert whole == {**order, "CUDA_VISIBLE_DEVICES": "0,1", "KRT_GPU_SHARE": "1"}
    assert part == {**order, "CUDA_VISIBLE_DEVICES": "2", "KRT_GPU_SHARE": "0.25"}


def test_what_was_given_back_is_lent_again() -> None:
    pool = GpuPool(machine(1))
    lent(pool, 0.5, 0.5)

    pool.give_back("a")

    assert pool.lend("c", 0.5)["CUDA_VISIBLE_DEVICES"] == "0"
    with pytest.raises(ConfigError):
        GpuPool(machine(1)).check([process("a", 0.5), process("b", 1)])


def test_nothing_is_lent_to_a_replica_that_asks_for_nothing() -> None:
    assert GpuPool(machine(1)).lend("a", 0) == {}


def test_without_a_gpu_whoever_asks_sees_none_and_has_no_share() -> None:
    pool = GpuPool(NO_GPU)
    pool.check([process("ocr", 8)])

    assert pool.lend("ocr", 8) == {**HIDDEN, "KRT_GPU_SHARE": "0"}


def test_too_few_gpus_are_refused_with_what_each_replica_asks_for() -> None:
    processes = [process("late", 0.5, stage=2), process("ocr", 1, replicas=2, stage=1), process("clean", stage=1)]

    with pytest.raises(ConfigError) as refused:
        GpuPool(machine(2)).check(processes)

    assert str(refused.value) == (
        "this machine lends 2 GPUs, which does not do for ocr/1 1, ocr/2 1, late 0.5; "
        "lower resources.gpu or replicas, or let them share: --share-gpus"
    )


def test_shares_that_fit_in_sum_and_into_no_gpu_are_refused_as_well() -> None:
    with pytest.raises(ConfigError):
        GpuPool(machine(2)).check([process("ocr", 0.6, replicas=3)])


def test_a_check_lends_nothing() -> None:
    pool = GpuPool(machine(1))

    pool.check([process("ocr", 1)])

    assert lent(pool, 1) == ["0"]


def test_sharing_lends_the_least_used_gpus_in_turn() -> None:
    pool = GpuPool(machine(2), sharing=True)
    pool.check([process("ocr", 1, replicas=5)])

    assert lent(pool, 1, 1, 1, 1, 8) == ["0", "1", "0", "1", "0,1"]


def test_gpus_split_up_by_what_goes_on_running_are_shared_with_a_warning(caplog: pytest.LogCaptureFixture) -> None:
    pool = GpuPool(machine(2))
    lent(pool, 0.6, 0.5, 0.4, 0.5)
    for replica in "ad":
        pool.give_back(replica)
    pool.check([process("b", 0.5), process("c", 0.4), process("new", 1)])

    assert pool.lend("new", 1)["CUDA_VISIBLE_DEVICES"] == "0"
    assert [record.action for record in caplog.records] == ["gpu"]  # type: ignore[attr-defined]  # set by `extra`


@pytest.mark.parametrize(
    ("found", "line"),
    [
        (machine(2), "GPUs      0 NVIDIA A, 1 NVIDIA A"),
        (NO_GPU, "no GPU on this machine (nvidia-smi: not found): classify, ocr run on the CPU"),
    ],
)
def test_one_line_tells_the_gpus_or_what_runs_on_the_cpu(found: FoundGpus, line: str) -> None:
    processes = [process("clean"), process("ocr", 0.5, stage=1), process("classify", 1, replicas=2)]

    assert GpuPool(found).describe(processes) == line


def test_nothing_is_told_where_nothing_asks() -> None:
    assert GpuPool(NO_GPU).describe([process("clean")]) == ""


@pytest.mark.parametrize(("names", "indexes"), [("", [0, 1, 2]), ("2,0", [2, 0]), ("GPU-1, 0,1", [1, 0]), ("none", [])])
def test_gpus_are_chosen_by_index_or_uuid(names: str, indexes: list[int]) -> None:
    assert [gpu.index for gpu in choose_gpus(machine(3), names).gpus] == indexes


def test_a_gpu_that_does_not_exist_is_refused_with_those_that_do() -> None:
    with pytest.raises(ConfigError) as refused:
        choose_gpus(machine(2), "0,3,GPU-9")

    assert str(refused.value) == (
        '--gpus names "3", "GPU-9", which is no GPU of this machine; it has 0 (NVIDIA A, GPU-0), 1 (NVIDIA A, GPU-1)'
    )


def test_a_gpu_named_on_a_machine_without_any_is_refused_with_the_reason() -> None:
    with pytest.raises(ConfigError, match="it has none: nvidia-smi: not found"):
        choose_gpus(NO_GPU, "0")


def test_once_something_asks_for_gpus_nothing_else_sees_them() -> None:
    planned = with_gpu_variables([process("clean", A="1"), process("ocr", 0.5), process("train", 2)])

    assert [each.environment for each in planned] == [
        {**HIDDEN, "A": "1"},
        {"KRT_GPU_SHARE": "0.5"},
        {"KRT_GPU_SHARE": "1"},
    ]


def test_while_nothing_asks_the_environment_stays_as_it_is() -> None:
    processes = [process("clean"), process("score")]

    assert with_gpu_variables(processes) == processes


def test_a_node_s_own_variables_win_over_the_hiding() -> None:
    own, _ = with_gpu_variables([process("clean", CUDA_VISIBLE_DEVICES="3"), process("ocr", 1)])

    assert own.environment["CUDA_VISIBLE_DEVICES"] == "3"
