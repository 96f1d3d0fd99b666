"""Arrays, tables and files through whole workflows: from node to node, from and to a client, and checked beforehand."""

from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pyarrow as pa  # type: ignore[import-untyped]  # it ships no types
import pytest
from typer.testing import CliRunner

from runtime import File
from runtime.cli import exits
from runtime.cli.commands import app
from runtime.drivers.fastapi_driver import FastAPIDriver
from runtime.inference import init
from runtime.testing import run_workflow
from test.integration.conftest import OpenWorkbench
from test.support.node import node_spec

READ = """
import numpy as np
import numpy.typing as npt
from runtime import File

def handler(ctx, image: File) -> npt.NDArray[np.uint8]:
    assert image.content_type == "image/x-raw", image
    return np.frombuffer(image.data, np.uint8).reshape(2, -1)[:, ::-1]
"""
SCORE = """
import numpy as np
import numpy.typing as npt
import pyarrow as pa

def handler(ctx, pixels: npt.NDArray[np.uint8]) -> pa.Table:
    assert not pixels.flags.writeable
    return pa.table({"row": range(len(pixels)), "sum": pixels.sum(axis=1)})
"""
REPORT = """
import pyarrow as pa
from runtime import File

def handler(ctx, sums: pa.Table) -> File:
    return File(str(sums.to_pylist()).encode(), "text/plain", "sums.txt")
"""


def write(folder: Path, **handlers: str) -> Path:
    """Write a chain of nodes, one for each handler; returns the folder."""
    nodes = ", ".join(f"{{name: {name}, handler: {name}.py}}" for name in handlers)
    (folder / "workflow.yaml").write_text(f"name: flow\nnodes: [{nodes}]\n")
    for name, code in handlers.items():
        (folder / f"{name}.py").write_text(code)
    return folder


@pytest.fixture
def chain(tmp_path: Path) -> Path:
    return write(tmp_path, read=READ, score=SCORE, report=REPORT)


def test_a_chain_takes_a_file_and_answers_with_one(chain: Path) -> None:
    with run_workflow(chain) as workflow:
        answer = workflow.send(File(bytes(range(6)), "image/x-raw"))

        assert answer == File(b"[{'row': 0, 'sum': 3}, {'row': 1, 'sum': 12}]", "text/plain", "sums.txt")
        assert workflow.outputs("read")[0].tolist() == [[2, 1, 0], [5, 4, 3]]
        assert workflow.outputs("score")[0].column("sum").to_pylist() == [3, 12]


def test_a_client_sends_and_gets_what_handlers_do(tmp_path: Path) -> None:
    folder = write(tmp_path, turn="import numpy as np\n\ndef handler(ctx, data: np.ndarray):\n    return data.T\n")

    with init("debug") as rt:
        proc = rt.start_inference(folder)
        answer = proc.predict(np.arange(6, dtype=">i2").reshape(2, 3)).result(10)

    assert (answer.dtype, answer.tolist()) == (np.dtype(">i2"), [[0, 3], [1, 4], [2, 5]])


def test_a_wrong_dtype_is_a_dead_letter_with_both_names(tmp_path: Path) -> None:
    with run_workflow(write(tmp_path, score=SCORE)) as workflow:
        workflow.post(np.zeros((2, 2), np.float32))
        workflow.advance(0.1)

        (letter,) = workflow.dead_letters("score")

    assert (letter.reason, letter.attempts) == ("payload-type", ())
    assert "the handler takes an array of uint8, the payload is an array of float32" in letter.error


@pytest.mark.parametrize(
    ("returns", "text"),
    [
        ("npt.NDArray[np.float32]", "an array of float32 is sent and an array of uint8 is read"),
        ("File", "a file is sent and an array of uint8 is read"),
        ("dict", "is sent and an array of uint8 is read"),
    ],
)
def test_an_edge_that_does_not_fit_is_found_before_anything_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, returns: str, text: str
) -> None:
    write(tmp_path, read=READ.replace("npt.NDArray[np.uint8]", returns), score=SCORE)
    monkeypatch.chdir(tmp_path)

    result = CliRunner().invoke(app, ("check",))

    assert result.exit_code == exits.CONFIG
    assert text in result.output
    assert "[edge-type]" in result.output


def test_a_chain_that_fits_passes_the_check(chain: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(chain)

    result = CliRunner().invoke(app, ("check", "--strict"))

    assert (result.exit_code, result.output) == (exits.OK, "workflow flow: 3 nodes, ok\n")


def test_an_image_is_posted_to_a_workflow_that_says_what_it_takes(chain: Path) -> None:
    with init("debug") as rt:
        proc = rt.start_inference(chain)
        port = proc.add_driver("web", FastAPIDriver).get_service("http")["port"]
        answer = httpx.post(
            f"http://127.0.0.1:{port}/predict", content=bytes(range(6)), headers={"Content-Type": "image/x-raw"}
        )
        schema = httpx.get(f"http://127.0.0.1:{port}/schema").json()

    assert (answer.status_code, answer.headers["Content-Type"]) == (200, "text/plain")
    assert answer.text == "[{'row': 0, 'sum': 3}, {'row': 1, 'sum': 12}]"
    assert (schema["inputs"]["format"], schema["outputs"]["format"]) == ("file", "file")


async def test_arrays_go_through_a_real_server_and_another_process(open_workbench: OpenWorkbench) -> None:
    bench = await open_workbench(
        """
        import numpy as np
        import numpy.typing as npt

        def handler(ctx, data: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
            return data[::-1]
        """
    )
    await bench.start_child(node_spec())
    sent = [np.full(125_000, number, dtype=np.float64) for number in range(3)]
    sent[0][0] = np.nan

    await bench.feed(sent)
    received: list[Any] = await bench.see(3)

    assert sorted(array[0] for array in received) == [0.0, 1.0, 2.0]
    assert sorted(map(len, received)) == [125_000] * 3
    assert sum(np.isnan(array[-1]) for array in received) == 1


def test_tables_of_two_kinds_meet(tmp_path: Path) -> None:
    code = "import pandas as pd\n\ndef handler(ctx, data: pd.DataFrame):\n    return data.describe()\n"

    with run_workflow(write(tmp_path, describe=code)) as workflow:
        answer = workflow.send(pa.table({"x": [1.0, 3.0]}))

    assert answer.column("x").to_pylist()[:2] == [2.0, 2.0]
