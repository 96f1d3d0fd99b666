"""`krt check` and `krt schema`: what is wrong with a workflow, and what may be in its file."""

import dataclasses
import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from runtime.cli import exits

if TYPE_CHECKING:
    from runtime.spec.load import Loaded


def register(app: typer.Typer) -> None:
    """Add the commands of this group."""
    app.command("check")(check)
    app.command("schema")(schema)


def check(
    path: Annotated[Path, typer.Argument(help="A workflow's folder, or its file.")] = Path("."),
    strict: Annotated[bool, typer.Option("--strict", help="Let warnings fail the check.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the problems as JSON.")] = False,
    no_import: Annotated[bool, typer.Option("--no-import", help="Leave the handlers' code alone.")] = False,
) -> None:
    """Report every problem of a workflow at once, each with its place and its remedy.

    Example: krt check workflows/hello --strict
    """
    from runtime.spec.load import load_report

    loaded = load_report(path, check_handlers=True)
    if not no_import:
        from runtime.cli.imports import check_handlers

        check_handlers(loaded)
    passed = not (loaded.report.problems if strict else loaded.report.errors)
    typer.echo(_as_json(loaded) if as_json else _as_text(loaded, passed))
    raise typer.Exit(exits.OK if passed else exits.CONFIG)


def schema() -> None:
    """Print the JSON Schema of the workflow file, for an editor.

    Example: krt schema > workflow.schema.json
    """
    from runtime.spec.schema import workflow_schema

    typer.echo(json.dumps(workflow_schema(), indent=2))


def _as_text(loaded: "Loaded", passed: bool) -> str:
    return "\n".join([*(str(problem) for problem in loaded.report.problems), _last_line(loaded, passed)])


def _last_line(loaded: "Loaded", passed: bool) -> str:
    failures = len(loaded.report.errors)
    warnings = len(loaded.report.problems) - failures
    parts = [_counted(failures, "problem")] if failures else []
    if passed and loaded.workflow is not None:
        parts = [f"workflow {loaded.workflow.name}: {_counted(len(loaded.workflow.nodes), 'node')}, ok"]
    return ", ".join([*parts, _counted(warnings, "warning")] if warnings else parts)


def _counted(count: int, thing: str) -> str:
    return f"{count} {thing}" if count == 1 else f"{count} {thing}s"


def _as_json(loaded: "Loaded") -> str:
    workflow = loaded.workflow
    fields = {
        "file": str(loaded.path),
        "workflow": workflow.name if workflow else None,
        "nodes": [node.name for node in workflow.nodes] if workflow else [],
        "problems": [dataclasses.asdict(problem) for problem in loaded.report.problems],
    }
    return json.dumps(fields, indent=2, ensure_ascii=False)
