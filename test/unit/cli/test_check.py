"""`krt check` and `krt schema`: what they print, and how they exit."""

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from runtime.cli import exits
from runtime.cli.commands import app
from runtime.spec.schema import workflow_schema
from runtime.version import __version__

GOOD = "name: hello\nnodes: [{name: count, handler: count.py}]\n"
FAULTY = "name: Hello\nnodes: [{name: count, handler: count.py, timeout: 30}]\n"
DOUBTFUL = "name: hello\nnodes: [{name: count, handler: count.py, retry: {attempts: 50}}]\n"


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "count.py").write_text("def handler(ctx, data):\n    return None\n")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def krt(*arguments: str) -> tuple[int, str]:
    result = CliRunner().invoke(app, arguments)
    return result.exit_code, result.output


def test_a_good_workflow_is_counted_and_exits_with_zero(folder: Path) -> None:
    (folder / "workflow.yaml").write_text(GOOD)

    assert krt("check", "--no-import") == (exits.OK, "workflow hello: 1 node, ok\n")


def test_problems_are_lines_and_the_last_line_counts_them(folder: Path) -> None:
    (folder / "workflow.yaml").write_text(FAULTY)

    code, output = krt("check", ".", "--no-import")

    assert code == exits.CONFIG
    first, second, last = output.splitlines()
    assert first.startswith('workflow.yaml:1:7: "Hello" is no name; ') and first.endswith(" [bad-name]")
    assert second.startswith('workflow.yaml:2:51: "timeout" of node "count" is \'30\'; ')
    assert last == "2 problems"


def test_a_file_may_be_named_in_place_of_a_folder(folder: Path) -> None:
    (folder / "other.yaml").write_text(GOOD)

    assert krt("check", "other.yaml", "--no-import")[0] == exits.OK


def test_warnings_fail_only_a_strict_check(folder: Path) -> None:
    (folder / "workflow.yaml").write_text(DOUBTFUL)

    relaxed, relaxed_output = krt("check", "--no-import")
    strict, strict_output = krt("check", "--no-import", "--strict")

    assert (relaxed, strict) == (exits.OK, exits.CONFIG)
    assert ": warning: " in relaxed_output
    assert relaxed_output.splitlines()[-1] == "workflow hello: 1 node, ok, 1 warning"
    assert strict_output.splitlines()[-1] == "1 warning"


def test_json_has_the_same_as_fields(folder: Path) -> None:
    (folder / "workflow.yaml").write_text(FAULTY)

    code, output = krt("check", "--no-import", "--json")

    report = json.loads(output)
    assert code == exits.CONFIG
    assert (report["file"], report["workflow"]) == ("workflow.yaml", None)
    assert [(p["line"], p["column"], p["code"], p["warning"]) for p in report["problems"]] == [
        (1, 7, "bad-name", False),
        (2, 51, "bad-duration", False),
    ]


def test_a_folder_without_a_workflow_file_is_a_problem(folder: Path) -> None:
    code, output = krt("check", "nowhere")

    assert code == exits.CONFIG
    assert output.startswith("nowhere:1:1: the file cannot be read: ")


def test_a_handler_without_its_file_is_a_problem(folder: Path) -> None:
    (folder / "workflow.yaml").write_text(GOOD.replace("count.py", "cuont.py"))

    code, output = krt("check", "--no-import")

    assert code == exits.CONFIG
    assert 'handler cuont.py does not exist; did you mean "count.py"? [missing-file]' in output


def test_handlers_are_imported_unless_told_not_to(folder: Path) -> None:
    (folder / "workflow.yaml").write_text(GOOD)
    (folder / "count.py").write_text("raise RuntimeError('no model')\n")

    imported, output = krt("check")
    left_alone, _ = krt("check", "--no-import")

    assert (imported, left_alone) == (exits.CONFIG, exits.OK)
    assert "count.py:1: RuntimeError: no model; " in output and output.endswith("[handler-import]\n1 problem\n")


def test_a_handler_sees_the_variables_of_its_node(folder: Path) -> None:
    (folder / "workflow.yaml").write_text(GOOD.replace("count.py", "count.py, env: {MODE: exact}"))
    (folder / "count.py").write_text("import os\nassert os.environ['MODE'] == 'exact'\ndef handler(ctx, data): ...\n")

    assert krt("check") == (exits.OK, "workflow hello: 1 node, ok\n")


def test_a_handler_that_does_not_finish_its_import_is_ended(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (folder / "workflow.yaml").write_text(GOOD)
    (folder / "count.py").write_text("import threading\nthreading.Event().wait()\n")
    monkeypatch.setattr("runtime.cli.imports.IMPORT_TIMEOUT_S", 0.5)

    code, output = krt("check")

    assert code == exits.CONFIG
    assert "count.py: not done after 0.5 s; move what takes so long into init(ctx) [handler-import]" in output


def test_schema_prints_the_json_schema() -> None:
    code, output = krt("schema")

    assert (code, json.loads(output)) == (exits.OK, workflow_schema())


TYPED = """
import pydantic

class Order(pydantic.BaseModel):
    count: int
    note: str = ""

channels = {"late": str}

def handler(ctx, order: Order) -> list[Order]:
    return [order]

"""


def test_schema_of_a_workflow_has_what_every_node_reads_and_sends(folder: Path) -> None:
    (folder / "workflow.yaml").write_text(
        "name: hello\nnodes:\n"
        "- {name: count, handler: count.py}\n- {name: work, kind: dispatch, from: count}\n"
        "- {name: typed, handler: typed.py, from: work}\n"
    )
    (folder / "typed.py").write_text(TYPED)

    code, output = krt("schema", "workflow.yaml")

    nodes = json.loads(output)["nodes"]
    assert code == exits.OK
    assert nodes["count"] == {"request": {}, "response": {}}
    assert nodes["work"]["request"]["required"] == ["algorithm", "payload"]
    assert set(nodes["work"]["response"]["required"]) == {"algorithm", "result", "runner", "version", "time_ms"}
    typed = nodes["typed"]
    assert (typed["request"]["required"], typed["response"]["required"]) == (["count"], ["count", "note"])
    assert typed["channels"] == {"late": {"type": "string"}}


def test_schema_of_a_workflow_with_problems_prints_these(folder: Path) -> None:
    (folder / "workflow.yaml").write_text(FAULTY)

    result = CliRunner().invoke(app, ["schema", "workflow.yaml"])

    assert (result.exit_code, result.stdout) == (exits.CONFIG, "")
    assert result.stderr.endswith("2 problems\n")


def test_what_a_node_sends_to_a_dispatcher_is_compared_with_what_it_takes(folder: Path) -> None:
    (folder / "workflow.yaml").write_text(
        "name: hello\nnodes: [{name: count, handler: count.py}, {name: work, kind: dispatch, from: count}]\n"
    )
    (folder / "count.py").write_text(
        "import pydantic\n\nclass Job(pydantic.BaseModel):\n    algorithm: str\n\n"
        "def handler(ctx, data) -> Job:\n    return Job(algorithm='ocr')\n"
    )

    code, output = krt("check")

    assert code == exits.CONFIG
    assert (
        '"work" cannot read what "count" sends: Job is sent and AlgorithmJob is read; '
        '"payload" is not sent (count.py:6) and is required here (node "work")' in output
    )


def test_what_a_dispatcher_leaves_open_is_no_warning(folder: Path) -> None:
    (folder / "workflow.yaml").write_text(
        "name: hello\nnodes: [{name: work, kind: dispatch}, {name: count, handler: count.py, from: work}]\n"
    )
    (folder / "count.py").write_text(
        "import pydantic\n\nclass Done(pydantic.BaseModel):\n    result: int\n    note: str\n\n"
        "def handler(ctx, data: Done): ...\n"
    )

    assert krt("check", "--strict") == (exits.OK, "workflow hello: 2 nodes, ok\n")


def test_version_is_printed() -> None:
    assert krt("--version") == (exits.OK, f"krt {__version__}\n")


def test_an_unknown_option_is_a_fault_of_the_command_line() -> None:
    assert krt("check", "--loud")[0] == exits.CONFIG
