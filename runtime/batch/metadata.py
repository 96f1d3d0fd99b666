"""metadata.json of a run: written after every one, from its record, its files and what the model has written itself.

    model = take_model_metadata(workspace)           # before the folders are looked at
    files, unsafe = chosen_files(model, workspace, files)
    write_metadata(workspace.metadata, record, spec, files, model)

The model's lists of files win where the files exist, and what it says fills in what the runtime does not know.
"""

import itertools
import json
import os
import posixpath
import socket
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from runtime.batch.backend import FOLDERS
from runtime.batch.files import NoRegularFileError, open_regular, text_of
from runtime.batch.output import FoundFile
from runtime.batch.run import Reason, RunRecord, RunState, ending, next_state
from runtime.batch.workspace import INPUT_FILE, Workspace
from runtime.spec.batch import BatchSpec

# Bytes of a metadata.json that are read: it is a page about a run.
MAX_METADATA_BYTES = 16 * 1024**2
# Names of the lists of files that a model may write, by folder; the second is that of older models.
LISTS = {"input": ("inputFiles", "inputFile"), "output": ("outputFiles", "outputFile")}
# Files of the contract: no list leaves them out.
ALWAYS = frozenset((f"input/{INPUT_FILE}", "output/data.json"))


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelMetadata:
    """What the model has written itself. note: why that cannot be used, "" where it can, or where there is none."""

    values: Mapping[str, Any] = field(default_factory=dict)
    note: str = ""


NO_METADATA = ModelMetadata()


def take_model_metadata(workspace: Workspace) -> ModelMetadata:
    """Read the metadata.json that the model has left; one that is broken is put aside into `log`. Blocking.

    A second time it reads what `write_metadata` has written, with the same result. Raises OSError.
    """
    try:
        with open_regular(workspace.metadata) as file:
            text = file.read(MAX_METADATA_BYTES + 1)
        if len(text) > MAX_METADATA_BYTES:
            raise ValueError(f"it is larger than {MAX_METADATA_BYTES // 1024**2} MiB")
        values = json.loads(text, parse_constant=_refuse_constant)
        if not isinstance(values, dict):
            raise ValueError("it is no object")
    except FileNotFoundError:
        return NO_METADATA
    except (ValueError, RecursionError, NoRegularFileError) as error:
        _put_aside(workspace)
        return ModelMetadata(note=f"the model's metadata.json is left out: {error}")
    return ModelMetadata(values=values)


def chosen_files(
    model: ModelMetadata, workspace: Workspace, files: Sequence[FoundFile]
) -> tuple[list[FoundFile], list[str]]:
    """Return the files that the model's lists leave, and a sentence for each path of a list that leaves its folder.

    A folder of which nothing that is listed exists keeps all its files.
    """
    kept, unsafe = list(files), []
    for folder, names in LISTS.items():
        listed = next((model.values[name] for name in names if name in model.values), None)
        paths = [_in_folder(text, folder, workspace.root) for text in _texts(listed)]
        if None in paths:
            unsafe.append(f"metadata.json lists {folder} files that lie elsewhere")
        wanted = {text_of(path) for path in paths if path is not None}
        if wanted & {file.path for file in files}:
            kept = [file for file in kept if not file.path.startswith(f"{folder}/") or file.path in wanted | ALWAYS]
    return kept, unsafe


def write_metadata(
    path: Path,
    record: RunRecord,
    spec: BatchSpec,
    files: Sequence[FoundFile],
    model: ModelMetadata = NO_METADATA,
    *,
    reason: Reason | None = None,
    detail: str = "",
) -> None:
    """Write metadata.json in place of what is there. Blocking. Raises OSError.

    reason, detail: why the run does not complete, where the record does not say so yet.
    """
    known = {
        "runId": record.run_id,
        "slug": record.slug,
        "image": record.image,
        "imageDigest": record.image_digest,
        "command": spec.command[0] if spec.command else "",
        "arguments": list(spec.command[1:]),
        # A digest stands for a version that nobody has told.
        "version": "" if record.versions.model.startswith("sha256:") else record.versions.model,
        "connectorVersion": record.versions.connector,
        "startedAt": _moment(record.times.started),
        "finishedAt": _moment(record.times.ended),
        "exitCode": record.exit_code,
        "signal": record.signal,
        "status": next_state(RunState.STORING, ending(record.reason or reason)).word,
        "inputFiles": _entries(files, "input"),
        "outputFiles": _entries(files, "output"),
        "logFiles": _entries(files, "log"),
        "host": socket.gethostname(),
        "error": (record.detail if record.reason else detail) or None,
    }
    if model.note:
        known["note"] = model.note
    filled = {name: model.values[name] for name, value in known.items() if value in ("", []) and name in model.values}
    merged = {**model.values, **known, **filled}
    merged["version"] = merged["version"] or record.versions.model
    _replace(path, json.dumps(merged, indent=2).encode() + b"\n")


def _refuse_constant(text: str) -> None:
    raise ValueError(f"{text} is no JSON")


def _texts(listed: object) -> list[str]:
    """Return the paths of a list: texts, or objects with a `path`; what is neither names no file."""
    entries = listed if isinstance(listed, list) else [listed]
    paths = [entry.get("path") if isinstance(entry, dict) else entry for entry in entries]
    return [path for path in paths if isinstance(path, str) and path]


def _in_folder(text: str, folder: str, root: Path) -> str | None:
    """Return a path of a list relative to the run's folder, None if it is not in `folder`."""
    for beginning in (f"{FOLDERS[folder]}/", f"{root / folder}/", f"{folder}/"):
        if text.startswith(beginning):
            text = text.removeprefix(beginning)
            break
    path = posixpath.normpath(text)
    return None if path.startswith(("/", "../")) or path == ".." else f"{folder}/{path}"


def _entries(files: Sequence[FoundFile], folder: str) -> list[dict[str, str | int]]:
    return [
        {"path": file.path, "size": file.size, "sha256": file.sha256}
        for file in files
        if file.path.startswith(f"{folder}/")
    ]


def _moment(unix_ms: int) -> str | None:
    return datetime.fromtimestamp(unix_ms / 1000, UTC).isoformat(timespec="milliseconds") if unix_ms else None


def _put_aside(workspace: Workspace) -> None:
    # A model that runs as our user may have made a link of the folder; then the file is not kept.
    keep = workspace.log.is_dir() and not workspace.log.is_symlink()
    folder = workspace.log if keep else workspace.root
    names = (folder / f"metadata.model{number or ''}.json" for number in itertools.count())
    os.replace(workspace.metadata, next(name for name in names if not os.path.lexists(name)))


def _replace(path: Path, data: bytes) -> None:
    """Write a file as a whole, or not at all. What the model has put there is replaced, and never written through."""
    new = path.with_name(f".{path.name}.new")
    new.unlink(missing_ok=True)
    try:
        with open(new, "xb") as file:
            file.write(data)
        os.replace(new, path)
    except BaseException:
        new.unlink(missing_ok=True)
        raise
