"""`krt connector`: a new one passes at once, and everything that can be wrong with one is told."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from runtime import errors
from runtime.batch.command import CommandBackend
from runtime.cli.connector_check import Finding, Package, check
from runtime.cli.connector_files import files
from runtime.cli.connector_trial import Trials
from runtime.cli.new import make

ROOT = Path(__file__).parents[2]
PATIENCE_S = 20.0
ALL_IS_RIGHT = [
    "ok: test-job.json fits input-schema.json",
    "ok: runs without arguments and ends with exit code 0",
    "ok: output/data.json fits output-schema.json",
    'ok: output/data.json has the input as "metadata"',
    'ok: output/data.json has name, modelVersion, connectorVersion in "model"',
    "ok: nothing is written outside of input, output and log",
    "ok: test-unsupported.json ends with exit code 10",
]
# Writes what the schema asks for by itself, with a gap for what a test has it do.
BARE = """
import json, os, pathlib, sys
text = open(os.environ["MODEL_INPUT_DIR"] + "/inputFile.json").read()
config = json.loads(text)
output = pathlib.Path(os.environ["MODEL_OUTPUT_DIR"])
document = {"values": [1], "metadata": config, "model": {"name": "x", "modelVersion": "1", "connectorVersion": "1"}}
if config["days"] > 365:
    sys.exit(10)
GAP
output.joinpath("data.json").write_text(json.dumps(document))
"""


@pytest.fixture
def connector(tmp_path: Path) -> Path:
    return make("x", tmp_path, files())


def fill(connector: Path, gap: str) -> None:
    (connector / "connector.py").write_text(BARE.replace("GAP", gap))


async def look(connector: Path, *, timeout_s: float = PATIENCE_S) -> list[str]:
    trials = Trials(connector, CommandBackend(), connector.parent / "trial", image="", timeout_s=timeout_s)
    found: list[Finding] = [finding async for finding in check(Package.load(connector), trials)]
    return [f"{finding.verdict}: {finding.text}" for finding in found]


async def only_fault(connector: Path) -> str:
    faults = [text for text in await look(connector) if not text.startswith("ok")]
    assert len(faults) == 1
    return faults[0]


async def test_a_new_connector_passes_at_once(connector: Path) -> None:
    assert await look(connector) == ALL_IS_RIGHT


async def test_a_connector_without_the_sdk_passes_as_well(connector: Path) -> None:
    fill(connector, "")

    assert await look(connector) == ALL_IS_RIGHT


@pytest.mark.parametrize(
    ("gap", "fault"),
    [
        ("document['values'] = 'many'", "FAIL: output/data.json fits output-schema.json: values: 'many' is not of"),
        ("document['metadata'] = {}", 'FAIL: output/data.json has the input as "metadata": it has not'),
        ("open('cache.bin', 'w')", "outside of input, output and log: there is connector/cache.bin"),
        ("open('meta.yml', 'a').write(' ')", "there is connector/meta.yml"),
        ("pathlib.Path.home().joinpath('.model').mkdir()", "there is home/.model"),
        ("output.parent.joinpath('left').mkdir()", "there is run/left"),
        ("sys.exit(output.joinpath('data.json').write_text('{'))", "ends with exit code 1"),
    ],
)
async def test_what_is_wrong_with_a_run_is_told(connector: Path, gap: str, fault: str) -> None:
    fill(connector, gap)

    assert fault in await only_fault(connector)


async def test_temporary_files_and_a_metadata_file_are_no_fault(connector: Path) -> None:
    fill(connector, "import tempfile; tempfile.mkstemp(); output.parent.joinpath('metadata.json').write_text('{}')")

    assert await look(connector) == ALL_IS_RIGHT


async def test_missing_versions_are_told_by_their_names(connector: Path) -> None:
    (connector / "output-schema.json").write_text("{}")
    fill(connector, "document['model'] = {'name': 'x', 'modelVersion': ''}")

    assert (await only_fault(connector)).endswith('in "model": no modelVersion, connectorVersion')


async def test_a_missing_document_is_told(connector: Path) -> None:
    fill(connector, "sys.exit(0)")

    assert await only_fault(connector) == "FAIL: output/data.json is missing"


async def test_a_document_that_is_no_json_is_told(connector: Path) -> None:
    fill(connector, "output.joinpath('data.json').write_text('{'); sys.exit(0)")

    assert "FAIL: output/data.json is no JSON: " in await only_fault(connector)


async def test_a_connector_that_wants_arguments_fails_with_what_it_has_said(connector: Path) -> None:
    fill(connector, "sys.exit('usage: connector FILE') if len(sys.argv) < 2 else None")

    fault = await only_fault(connector)

    assert fault.splitlines() == [
        "FAIL: runs without arguments: it ends with exit code 1",
        "    usage: connector FILE",
    ]


async def test_a_connector_that_hangs_is_ended(connector: Path) -> None:
    fill(connector, "import time; time.sleep(600)")

    fault = (await look(connector, timeout_s=1.0))[-1]

    assert fault == "FAIL: runs without arguments: it does not end in time; --timeout gives it more"


async def test_an_unsupported_input_that_is_computed_is_a_fault(connector: Path) -> None:
    (connector / "test-unsupported.json").write_text((connector / "test-job.json").read_text())

    fault = await only_fault(connector)

    assert fault == "FAIL: test-unsupported.json ends with exit code 10: it ends with exit code 0"


async def test_without_an_unsupported_input_it_says_that_it_was_not_checked(connector: Path) -> None:
    (connector / "test-unsupported.json").unlink()

    assert (await look(connector))[-1] == "not checked: an unsupported input: there is no test-unsupported.json"


async def test_a_test_job_that_breaks_the_schema_is_told(connector: Path) -> None:
    (connector / "test-job.json").write_text('{"start": 1, "rate": 0.1, "days": 0}')
    fill(connector, "")

    assert (await look(connector))[0].startswith("FAIL: test-job.json fits input-schema.json: days: 0 is less than")


@pytest.mark.parametrize("name", ["meta.yml", "input-schema.json", "output-schema.json", "test-job.json"])
def test_a_file_that_is_missing_is_named(connector: Path, name: str) -> None:
    (connector / name).unlink()

    with pytest.raises(errors.ConfigError, match=name):
        Package.load(connector)


@pytest.mark.timeout(60)
def test_the_commands_make_a_connector_and_check_it(tmp_path: Path) -> None:
    def krt(*arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "runtime", "connector", *arguments],
            cwd=tmp_path, env={**os.environ, "PYTHONPATH": str(ROOT)}, capture_output=True, text=True, timeout=50,
        )  # fmt: skip

    made = krt("init", "flood")
    passed = krt("test", "flood")
    (tmp_path / "flood" / "connector.py").write_text("raise SystemExit(7)")
    failed = krt("test", "flood")

    assert made.returncode == 0
    assert (passed.returncode, len(passed.stdout.splitlines())) == (0, len(ALL_IS_RIGHT)), passed.stderr
    assert failed.returncode == 1
    assert failed.stdout.splitlines()[-1] == "FAIL  runs without arguments: it ends with exit code 7"
