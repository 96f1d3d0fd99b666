"""`krt check` and `krt schema`: what is wrong with a workflow, and what may be in its file."""

import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from runtime.cli import exits

if TYPE_CHECKING:
    from runtime.errors import Problem
    from runtime.spec.load import Loaded
    from runtime.spec.model import Workflow


def register(app: typer.Typer) -> None:
    """Add the commands of this group."""
    app.command("check")(check)
    app.command("schema")(schema)


def check(
    path: Annotated[Path, typer.Argument(help="A workflow's folder, or its file.")] = Path("."),
    workflow: Annotated[
        str, typer.Option("--workflow", metavar="NAME", help="Check only this one of a krt.yml with several.")
    ] = "",
    strict: Annotated[bool, typer.Option("--strict", help="Let warnings fail the check.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the problems as JSON.")] = False,
    no_import: Annotated[
        bool, typer.Option("--no-import", help="Leave the code of handlers and drivers alone.")
    ] = False,
) -> None:
    """Report every problem of a workflow at once, each with its place and its remedy.

    Example: krt check workflows/hello --strict
    """
    from runtime.spec.load import workflow_names

    names = [workflow] if workflow else workflow_names(path) or [""]
    found = [_load(path, name, no_import) for name in names]
    passed = not any(loaded.report.problems if strict else loaded.report.errors for loaded in found)
    typer.echo(_as_json(found) if as_json else _as_text(found, passed))
    raise typer.Exit(exits.OK if passed else exits.CONFIG)


def schema(
    path: Annotated[
        Path | None, typer.Argument(help="A workflow's folder, or its file; without it, the schema is of such files.")
    ] = None,
    workflow: Annotated[
        str, typer.Option("--workflow", metavar="NAME", help="Which one of a krt.yml with several.")
    ] = "",
) -> None:
    """Print the JSON Schemas of what every node of a workflow reads and sends; or of the workflow file, for an editor.

    Exit codes: 0 printed, 2 the workflow has problems.

    Example: krt schema workflows/hello; krt schema > workflow.schema.json
    """
    from runtime.spec.schema import workflow_schema

    typer.echo(json.dumps(workflow_schema() if path is None else _node_schemas(path, workflow), indent=2))


def _node_schemas(path: Path, name: str) -> dict[str, Any]:
    from runtime.cli.imports import check_handlers
    from runtime.cli.schemas import workflow_schemas
    from runtime.spec.load import load_report

    loaded = load_report(path, workflow=name, check_handlers=True)
    known = check_handlers(loaded)
    if loaded.report.errors or loaded.workflow is None:
        typer.echo(_as_text([loaded], passed=False), err=True)
        raise typer.Exit(exits.CONFIG)
    return workflow_schemas(loaded.workflow, known)


def _load(path: Path, workflow: str, no_import: bool) -> "Loaded":
    from runtime.spec.load import load_report

    loaded = load_report(path, workflow=workflow, check_handlers=True)
    if not no_import:
        from runtime.cli.driver_check import check_drivers
        from runtime.cli.imports import check_handlers

        check_handlers(loaded)
        check_drivers(loaded)
    return loaded


def _as_text(found: Sequence["Loaded"], passed: bool) -> str:
    """Return the problems, each once: what is wrong at the top of a krt.yml is wrong in every workflow of it."""
    problems = sorted({problem for loaded in found for problem in loaded.report.problems})
    return "\n".join([*(str(problem) for problem in problems), _last_line(found, problems, passed)])


def _last_line(found: Sequence["Loaded"], problems: Sequence["Problem"], passed: bool) -> str:
    warnings = sum(problem.warning for problem in problems)
    failures = len(problems) - warnings
    parts = [_counted(failures, "problem")] if failures else []
    workflows = [loaded.workflow for loaded in found if loaded.workflow is not None]
    if passed and workflows:
        parts = [f"workflow {workflow.name}: {_nodes(workflow)}" for workflow in workflows]
        parts.append("ok")
    return ", ".join([*parts, _counted(warnings, "warning")] if warnings else parts)


def _nodes(workflow: "Workflow") -> str:
    fused = f" in {len(workflow.chains)} process{'es' * (len(workflow.chains) != 1)}" if workflow.fuse else ""
    return f"{_counted(len(workflow.nodes), 'node')}{fused}"


def _counted(count: int, thing: str) -> str:
    return f"{count} {thing}" if count == 1 else f"{count} {thing}s"


def _as_json(found: Sequence["Loaded"]) -> str:
    """Return an object, or a list of them for several workflows of a krt.yml."""
    results = [_fields(loaded) for loaded in found]
    return json.dumps(results[0] if len(results) == 1 else results, indent=2, ensure_ascii=False)


def _fields(loaded: "Loaded") -> dict[str, Any]:
    workflow = loaded.workflow
    return {
        "file": str(loaded.path),
        "workflow": workflow.name if workflow else None,
        "nodes": [node.name for node in workflow.nodes] if workflow else [],
        "problems": [dataclasses.asdict(problem) for problem in loaded.report.problems],
    }
