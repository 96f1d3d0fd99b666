"""`workflows/vision` as its README has it: training, the demo, the comparison, and what becomes of other bytes."""

import logging
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import onnxruntime  # type: ignore[import-untyped]  # it has no types
import pytest

from runtime import File
from runtime.errors import PredictionError
from runtime.testing import run_workflow
from test.support.run_process import RunProcess

ROOT = Path(__file__).parents[2]
VISION = ROOT / "workflows" / "vision"
HELD_OUT = {
    f"{label}-{number}.jpg" for label in ("brick", "galaxies", "grass", "gravel") for number in ("04", "08", "12")
}
CUDA, CPU = "CUDAExecutionProvider", "CPUExecutionProvider"


@pytest.fixture(autouse=True)
def no_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """Hide the GPUs of this machine, which calculate a little differently."""
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")


def run_python(place: Path, *arguments: str) -> str:
    """Return what a command prints; fail with all of it when it ends badly."""
    done = subprocess.run(
        [sys.executable, *arguments],
        cwd=place,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=150,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def probabilities(model: Path, images: Any) -> Any:
    return onnxruntime.InferenceSession(model, providers=[CPU]).run(["probabilities"], {"pixels": images})[0]


def test_training_finds_the_shipped_model_again(tmp_path: Path) -> None:
    copy = tmp_path / "vision"
    shutil.copytree(VISION, copy, ignore=shutil.ignore_patterns(".krt", "model.onnx", "__pycache__"))
    images = np.random.default_rng(0).integers(0, 256, (20, 96, 96), dtype=np.uint8)

    printed = run_python(tmp_path, str(copy / "train.py"))

    accuracy = re.search(r"right on (\d+)% of the 12 held out", printed)
    assert accuracy is not None and int(accuracy[1]) >= 90
    trained, shipped = (probabilities(folder / "model.onnx", images) for folder in (copy, VISION))
    assert trained == pytest.approx(shipped, abs=0.01)


@pytest.mark.usefixtures("nats_server_binary")
@pytest.mark.timeout(150)
def test_the_demo_recognises_the_photographs_that_were_held_out(tmp_path: Path) -> None:
    printed = run_python(tmp_path, "-m", "runtime", "run", str(VISION), "--demo")

    shown = re.findall(r"^  (\w+-\d+\.jpg) +(\w+) +(\d+)%", printed, re.M)
    accuracy = re.search(r"accuracy +(\d+)% of these, (\d+)% of all", printed)
    assert {name for name, _, _ in shown} == HELD_OUT
    assert accuracy is not None and min(map(int, accuracy.groups())) >= 90


@pytest.mark.usefixtures("nats_server_binary")
@pytest.mark.timeout(200)
def test_the_comparison_prints_both_ways_and_their_ratio(tmp_path: Path) -> None:
    printed = run_python(tmp_path, str(VISION / "compare.py"), "1")

    alone, batched, times = re.findall(r"^(?:one by one|in batches|difference) +([\d,.]+)", printed, re.M)
    assert float(times) == pytest.approx(int(batched.replace(",", "")) / int(alone.replace(",", "")), rel=0.05)


@pytest.mark.usefixtures("nats_server_binary")
async def test_a_photograph_is_sent_over_http(tmp_path: Path) -> None:
    run = await RunProcess.start(tmp_path, str(VISION))
    try:
        address = re.search(r"http://\S+", await run.wait_for("api: http://"))
        assert address is not None
        async with httpx.AsyncClient(base_url=address[0], timeout=30) as client:
            image = (VISION / "images" / "gravel-08.jpg").read_bytes()
            seen = await client.post("/predict", content=image, headers={"content-type": "image/jpeg"})
            other = await client.post("/predict", content=b"none", headers={"content-type": "image/jpeg"})
    finally:
        status = await run.stop()

    assert (seen.status_code, seen.json()["label"]) == (200, "gravel")
    assert (other.status_code, other.json()["node"]) == (400, "decode")
    assert status == 0


def test_what_is_no_image_is_refused_and_images_beside_it_are_answered() -> None:
    image = VISION / "images" / "grass-04.jpg"

    with run_workflow(VISION) as workflow:
        with pytest.raises(PredictionError, match="this is no image") as refused:
            workflow.send(b"\xff\xd8 not a JPEG")
        with pytest.raises(PredictionError, match="this is no image"):
            workflow.send(image.read_bytes()[:1000])
        answer = workflow.send(
            File(image.read_bytes(), "image/jpeg", image.name), headers={"file": image.name, "label": "grass"}
        )
        predictions = workflow.documents("classificationMetrics")

    assert refused.value.outcome == "invalid"
    assert (answer["image"], answer["label"]) == ("grass-04.jpg", "grass")
    assert [(each["predictedValue"], each["trueValue"], each["extra"]["image"]) for each in predictions] == [
        ("grass", "grass", "grass-04.jpg")
    ]


def test_a_gpu_is_preferred_where_onnxruntime_knows_one_and_the_log_tells_what_is_used(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    asked: list[list[str]] = []
    session = onnxruntime.InferenceSession

    def on_a_machine_whose_gpu_fails(file: str, options: Any, *, providers: list[str]) -> Any:
        asked.append(providers)
        return session(file, options, providers=[CPU])

    monkeypatch.setattr(onnxruntime, "InferenceSession", on_a_machine_whose_gpu_fails)
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: ["TensorrtExecutionProvider", CUDA, CPU])

    with caplog.at_level(logging.INFO), run_workflow(VISION):
        pass

    assert asked == [[CUDA, CPU]]
    assert f"the model runs on {CPU}" in caplog.messages
