"""The part of `krt check` that looks into drivers: does the class import, and does it take what the file gives it.

Each class is imported by a child process (`cli/driver_probe.py`). What the children find becomes problems at the places
of the workflow file.
"""

import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from pydantic import ValidationError

from runtime.cli.driver_probe import FINDINGS, DriverFinding
from runtime.cli.imports import IMPORT_TIMEOUT_S, MAX_CHILDREN
from runtime.spec.drivers import DriverDraft
from runtime.spec.load import Loaded
from runtime.spec.report import Fault

# Value of a secret that is not set where the check runs.
ANY_SECRET = "secret"


def check_drivers(loaded: Loaded) -> None:
    """Import the drivers of a workflow and add what is wrong with them to its report."""
    folder = loaded.path.parent.absolute()
    with ThreadPoolExecutor(min(MAX_CHILDREN, os.cpu_count() or 1)) as pool:
        found = list(pool.map(lambda draft: _probe(folder, draft), loaded.drivers))
    for draft, findings in zip(loaded.drivers, found, strict=True):
        for finding in findings:
            loaded.report.add(_fault(draft, finding, folder))


def _probe(folder: Path, draft: DriverDraft) -> list[DriverFinding]:
    try:
        child = subprocess.run(
            [sys.executable, "-m", "runtime.cli.driver_probe", str(folder)],
            input=draft.driver.model_dump_json().encode(),
            env=_environment(draft),
            capture_output=True,
            timeout=IMPORT_TIMEOUT_S,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return [_cannot_import(f"it is not done after {IMPORT_TIMEOUT_S:g} s")]
    try:
        return FINDINGS.validate_json(child.stdout)
    except ValidationError:
        words = child.stderr.decode(errors="replace").strip().splitlines()
        return [_cannot_import(f"it ended the process ({child.returncode}){f': {words[-1]}' if words else ''}")]


def _cannot_import(what: str) -> DriverFinding:
    return DriverFinding(path=("class",), what=f"the class cannot be imported: {what}", code="driver-import")


def _environment(draft: DriverDraft) -> dict[str, str]:
    """Return the variables of the child: the driver's own, and a path on which it finds this package."""
    root = str(Path(__file__).parents[2])
    path = os.pathsep.join(part for part in (root, os.environ.get("PYTHONPATH", "")) if part)
    secrets = dict.fromkeys(draft.driver.secrets, ANY_SECRET)
    return {**secrets, **os.environ, "PYTHONPATH": path, **draft.driver.env}


def _fault(draft: DriverDraft, finding: DriverFinding, folder: Path) -> Fault:
    """Return the fault; the paths in the child's words become relative."""
    words = " ".join(finding.what.replace(f"{folder}{os.sep}", "").split())
    what, found, remedy = words.rpartition("; ")
    if not found:
        is_import = finding.code == "driver-import"
        what, remedy = words, "correct it, or install what it imports" if is_import else "correct it"
    where = ".".join(finding.path)
    title = f'"{where}" of {draft.title}' if where and where != "class" else draft.title
    return Fault(draft.place_of(finding.path), f"{title}: {what}", remedy, finding.code)
