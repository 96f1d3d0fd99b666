"""How commands that print something made of a workflow read its file."""

from pathlib import Path
from typing import TYPE_CHECKING

import typer

if TYPE_CHECKING:
    from runtime.spec.model import Workflow


def checked_workflow(path: Path, workflow: str) -> "Workflow":
    """Return the workflow of a file whose handlers exist; its warnings go to standard error.

    workflow: the one to take of a manifest with several. Raises WorkflowError with every problem.
    """
    from runtime.errors import WorkflowError
    from runtime.spec.load import load_report

    loaded = load_report(path, workflow=workflow, check_handlers=True)
    if loaded.workflow is None:
        raise WorkflowError(loaded.report.problems)
    for problem in loaded.report.problems:
        typer.echo(str(problem), err=True)
    return loaded.workflow
