"""`krt run` on machines with GPUs, with too few and without. `nvidia-smi` is a stand-in but for the last test."""

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from runtime.cli import exits
from runtime.gpus import PROGRAM
from test.acceptance.test_run import Run, krt
from test.acceptance.test_status import watching
from test.support.nvidia_smi import UUIDS, install

WORKFLOW = """
name: flow
nodes:
  - {name: ocr, handler: handler.py, resources: {gpu: 0.5}}
  - {name: classify, handler: handler.py, resources: {gpu: 1}}
  - {name: archive, handler: handler.py}
"""
# Adds what each node sees of the GPUs.
TELL = """
import os

def handler(ctx, data: dict) -> dict:
    seen = [os.environ.get(name) for name in ("CUDA_VISIBLE_DEVICES", "KRT_GPU_SHARE")]
    return {**data, os.environ["KRT_NODE_NAME"]: seen}
"""


@pytest.fixture
def start(tmp_path: Path, nats_server_binary: Path) -> Iterator[Callable[..., Run]]:
    """Start `krt run` on the workflow in the test's folder."""
    (tmp_path / "flow").mkdir()
    (tmp_path / "flow" / "workflow.yaml").write_text(WORKFLOW)
    (tmp_path / "flow" / "handler.py").write_text(TELL)
    runs: list[Run] = []

    def start(*options: str) -> Run:
        runs.append(Run(tmp_path, "flow", *options))
        return runs[-1]

    yield start
    for run in runs:
        run.end()


def test_nodes_see_their_own_gpus_and_the_status_shows_who_has_which(
    start: Callable[..., Run], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    install(tmp_path, monkeypatch, gpus=2)
    run = start()
    run.wait_for("GPUs      0 NVIDIA H200, 1 NVIDIA H200")
    run.wait_for("ready in")

    assert run.answer("{}") == {"ocr": ["0", "0.5"], "classify": ["1", "1"], "archive": ["", None]}

    with watching(tmp_path) as look_until:
        gpus = look_until(lambda seen: len(seen["gpus"]) == 2)["gpus"]
    assert [(each["gpu"]["uuid"], each["holders"]) for each in gpus] == [
        (UUIDS[0], ["ocr/1 (0.5)"]),
        (UUIDS[1], ["classify/1"]),
    ]
    assert "1    NVIDIA H200" in krt(tmp_path, "status").stdout
    assert run.stop() == exits.OK


def test_without_a_gpu_one_line_says_so_and_everything_works_on_the_cpu(
    start: Callable[..., Run], tmp_path: Path
) -> None:
    run = start("--gpus", "none")
    run.wait_for("ready in")

    answer = run.answer("{}")
    assert (answer["ocr"], answer["classify"]) == (["", "0"], ["", "0"])
    assert "GPU" not in krt(tmp_path, "status").stdout
    assert run.stop() == exits.OK

    told = [line for line in run.lines if "gpu" in line.lower()]
    assert told == ["no GPU on this machine (--gpus is none): ocr, classify run on the CPU"]


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ([], "this machine lends 1 GPU, which does not do for ocr 0.5, classify 1; lower resources.gpu or replicas"),
        (["--gpus", "0,7"], '--gpus names "7", which is no GPU of this machine; it has 0 (NVIDIA H200'),
    ],
    ids=["too few", "one that does not exist"],
)
def test_gpus_that_are_not_there_are_refused_before_anything_starts(
    start: Callable[..., Run], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, options: list[str], said: str
) -> None:
    install(tmp_path, monkeypatch, gpus=1)

    run = start(*options)

    assert run.wait_for_end() == exits.CONFIG
    assert said in "\n".join(run.lines)
    assert not (tmp_path / ".krt").exists()


def test_too_few_gpus_are_shared_on_request(
    start: Callable[..., Run], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    install(tmp_path, monkeypatch, gpus=1)
    run = start("--share-gpus")
    run.wait_for("ready in")

    answer = run.answer("{}")

    assert (answer["ocr"], answer["classify"]) == (["0", "0.5"], ["0", "1"])
    assert run.stop() == exits.OK


def test_gpus_are_looked_for_when_an_edit_asks_for_the_first_one(
    start: Callable[..., Run], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    install(tmp_path, monkeypatch, gpus=1)
    file = tmp_path / "flow" / "workflow.yaml"
    file.write_text("name: flow\nnodes: [{name: ocr, handler: handler.py}]\n")
    run = start("--reload")
    run.wait_for("ready in")
    assert run.answer("{}") == {"ocr": [None, None]}

    file.write_text("name: flow\nnodes: [{name: ocr, handler: handler.py, resources: {gpu: 2}}]\n")
    run.wait_for("workflow.yaml changed, but: this machine lends 1 GPU, which does not do for ocr 2")
    file.write_text("name: flow\nnodes: [{name: ocr, handler: handler.py, resources: {gpu: 1}}]\n")

    run.wait_for("GPUs      0 NVIDIA H200")
    run.wait_for("ready again")
    assert run.answer("{}") == {"ocr": ["0", "1"]}
    assert run.stop() == exits.OK


@pytest.mark.gpu
def test_a_real_gpu_is_lent_and_shown(start: Callable[..., Run], tmp_path: Path) -> None:
    if shutil.which(PROGRAM) is None:
        pytest.skip("no GPU here: nvidia-smi is not on PATH")
    run = start("--share-gpus")
    run.wait_for(r"GPUs      0 ")
    run.wait_for("ready in")

    answer: Any = run.answer("{}")

    assert answer["ocr"] == ["0", "0.5"]
    with watching(tmp_path) as look_until:
        (first, *_) = look_until(lambda seen: bool(seen["gpus"]))["gpus"]
    assert first["gpu"]["total_mib"] > 0
    assert run.stop() == exits.OK
