"""The key `algorithms` of the workflow file: runners of algorithms that are deployed with it, beside its nodes."""

import os
import posixpath
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path as FilePath
from typing import Any

from runtime.spec import names
from runtime.spec.model import AlgorithmRunner
from runtime.spec.record import Field, Record
from runtime.spec.report import Fault, Place, Report
from runtime.spec.resources import IMAGE_FIELD, RESOURCES_FIELD
from runtime.spec.secret_names import SECRETS_FIELD, secret_values
from runtime.spec.tree import Entry, Mapping, Text, Value
from runtime.spec.values import (
    Choice,
    Duration,
    Environment,
    JsonSchema,
    Name,
    Path,
    Spot,
    WholeNumber,
    wrong_type,
)

# File that an adapter's folder holds.
ADAPTER_FILE = "runner_adapter.py"

RUNNER = Record(
    {
        "adapter": Field(
            type=Path(), required=True, description=f"Folder with {ADAPTER_FILE}, or a .py file, beside this file"
        ),
        "concurrency": Field(
            type=WholeNumber(most=10_000), default=1, description="Calls of each algorithm that a replica runs at once"
        ),
        "replicas": Field(type=WholeNumber(), default=1, description="Processes that share the work"),
        "isolation": Field(
            type=Choice(("thread", "process")),
            default="thread",
            description="Where calls run; one that overruns its time is killed in a process alone",
        ),
        "timeout": Field(
            type=Duration(positive=True),
            default="60s",
            attribute="timeout_s",
            description="Longest run of a call, where the function has no timeout of its own",
        ),
        "env": Field(type=Environment(), description="Variables of the process: text as written"),
        "secrets": SECRETS_FIELD,
        "resources": RESOURCES_FIELD,
        "image": IMAGE_FIELD,
    }
)


@dataclass(frozen=True, slots=True)
class RunnerDraft:
    """A runner with the place of its adapter in the file."""

    runner: AlgorithmRunner
    place: Place


@dataclass(frozen=True, slots=True)
class AlgorithmRunners:
    """The runners by their names."""

    def read(self, value: Value, spot: Spot, report: Report) -> tuple[RunnerDraft, ...]:
        if not isinstance(value, Mapping):
            raise wrong_type(value, spot, "a mapping of names to runners: {images: {adapter: algorithms/images}}")
        return tuple(draft for entry in value.entries for draft in _read(entry, report))

    def schema(self) -> JsonSchema:
        return {"type": "object", "propertyNames": Name().schema(), "additionalProperties": RUNNER.schema()}


def _read(entry: Entry, report: Report) -> Iterator[RunnerDraft]:
    spot = Spot("", f'runner "{entry.key.text[: names.MAX_NAME_LENGTH]}"')
    with report.collecting():
        Name().read(entry.key, spot, report)
        values: dict[str, Any] = secret_values(RUNNER.read(entry.value, spot, report))
        written: Text | None = values.pop("adapter", None)
        if written is None:
            return
        path = posixpath.normpath(written.text)
        if posixpath.isabs(path) or path.split("/")[0] == "..":
            what = f"adapter {written.text} of {spot.owner} lies outside the folder of the file"
            raise Fault(written.place, what, "put it into the folder, or below", "outside-folder")
        yield RunnerDraft(AlgorithmRunner(name=entry.key.text, adapter=path, **values), written.place)


def check_adapters(drafts: tuple[RunnerDraft, ...], folder: FilePath, report: Report) -> None:
    """Report adapters that are not there."""
    for draft in drafts:
        adapter = os.path.join(folder, draft.runner.adapter)
        if not os.path.realpath(adapter).startswith(os.path.realpath(folder)):
            what = f"adapter {draft.runner.adapter} is a link that leads out of the folder of the file"
            report.add(Fault(draft.place, what, "put the files themselves there", "outside-folder"))
        # os.path.isfile answers False where Path.is_file raises: a name that is too long.
        elif not os.path.isfile(adapter) and not os.path.isfile(os.path.join(adapter, ADAPTER_FILE)):
            what = f"adapter {draft.runner.adapter} is no file, and no folder with a {ADAPTER_FILE}"
            report.add(Fault(draft.place, what, "create it, or name another", "missing-file"))
