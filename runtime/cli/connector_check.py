"""What `krt connector test` looks at: what the test job leaves, and how an unsupported input ends."""

import json
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Self

from runtime import errors
from runtime.batch.connector import COMPLETE, UNSUPPORTED
from runtime.batch.schemas import Schema
from runtime.cli.connector_trial import Trials
from runtime.spec.connector import ConnectorMeta, load_meta

JOB_FILE, UNSUPPORTED_FILE = "test-job.json", "test-unsupported.json"
INPUT_SCHEMA, OUTPUT_SCHEMA = "input-schema.json", "output-schema.json"
# The document that a connector writes, as messages name it, and what has to be in it of the versions.
DOCUMENT = "output/data.json"
VERSIONS = ("name", "modelVersion", "connectorVersion")
# Paths of files in wrong places that are shown.
MAX_PATHS = 5

Verdict = Literal["ok", "FAIL", "not checked"]


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was looked at."""

    verdict: Verdict
    text: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Package:
    """A connector's folder, as far as it is looked at. unsupported: an input to be refused, None for none."""

    folder: Path
    meta: ConnectorMeta
    input_schema: Schema
    output_schema: Schema
    job: bytes
    unsupported: bytes | None

    @classmethod
    def load(cls, folder: Path) -> Self:
        """Raises ConfigError."""
        loaded = load_meta(folder)
        if loaded.meta is None:
            raise errors.WorkflowError(loaded.report.problems)
        refused = folder / UNSUPPORTED_FILE
        return cls(
            folder=folder,
            meta=loaded.meta,
            input_schema=Schema.load(folder / INPUT_SCHEMA),
            output_schema=Schema.load(folder / OUTPUT_SCHEMA),
            job=_read_json(folder / JOB_FILE),
            unsupported=_read_json(refused) if refused.exists() else None,
        )


async def check(package: Package, trials: Trials) -> AsyncIterator[Finding]:
    """Yield each thing when it is known. Raises as `Trials.run` does."""
    job = json.loads(package.job)
    yield _fits(f"{JOB_FILE} fits {INPUT_SCHEMA}", package.input_schema.faults(job))
    trial = await trials.run("job", package.job)
    if trial.code != COMPLETE:
        yield Finding("FAIL", f"runs without arguments: {trial.ending}")
        return
    yield Finding("ok", f"runs without arguments and ends with exit code {COMPLETE}")
    for finding in _look_at(trial.document, job, package.output_schema):
        yield finding
    strays = ", ".join(trial.strays[:MAX_PATHS])
    yield _verdict("nothing is written outside of input, output and log", f"there is {strays}" if strays else "")
    yield await _refusal(package, trials)


def _look_at(document: bytes | None, job: Any, schema: Schema) -> Iterator[Finding]:
    """Yield what there is to say of the document."""
    try:
        said = json.loads(document or b"")
    except ValueError as error:
        yield Finding("FAIL", f"{DOCUMENT} is {'no JSON: ' + str(error) if document is not None else 'missing'}")
        return
    yield _fits(f"{DOCUMENT} fits {OUTPUT_SCHEMA}", schema.faults(said))
    told = said if isinstance(said, dict) else {}
    yield _verdict(f'{DOCUMENT} has the input as "metadata"', "" if told.get("metadata") == job else "it has not")
    model = told.get("model")
    missing = [name for name in VERSIONS if not (isinstance(model, dict) and model.get(name))]
    yield _verdict(f'{DOCUMENT} has {", ".join(VERSIONS)} in "model"', f"no {', '.join(missing)}" if missing else "")


async def _refusal(package: Package, trials: Trials) -> Finding:
    if package.unsupported is None:
        return Finding("not checked", f"an unsupported input: there is no {UNSUPPORTED_FILE}")
    trial = await trials.run("unsupported", package.unsupported)
    expected = f"{UNSUPPORTED_FILE} ends with exit code {UNSUPPORTED}"
    return _verdict(expected, "" if trial.code == UNSUPPORTED else trial.ending)


def _fits(expected: str, faults: list[str]) -> Finding:
    return _verdict(expected, "; ".join(faults))


def _verdict(expected: str, fault: str) -> Finding:
    return Finding("FAIL", f"{expected}: {fault}") if fault else Finding("ok", expected)


def _read_json(file: Path) -> bytes:
    try:
        content = file.read_bytes()
        json.loads(content)
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else str(error)
        raise errors.ConfigError(f"{file} is no JSON document: {reason}") from error
    return content
