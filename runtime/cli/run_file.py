"""What `krt run` leaves for the other commands in the private folder of a local run.

| file | written | holds |
|---|---|---|
| `.krt/run.json` | once NATS runs; removed at the end | where NATS is, who runs, which workflows with which nodes |
| `.krt/processes.json` | at every change of a process | state, pid, restarts, last error of every replica by its name |
| `.krt/last.json` | with `run.json`, and stays | the store that the run leaves, and the workflows that are in it |

Each is replaced as a whole, so a reader never sees half a file.
"""

import json
import os
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from runtime import errors

# The private folder of a local run, beside the workflow or wherever `krt run` was started.
FOLDER = ".krt"
RUN_FILE = "run.json"
PROCESSES_FILE = "processes.json"
LAST_FILE = "last.json"


@dataclass(frozen=True, slots=True, kw_only=True)
class RunNode:
    """A node as it was planned. durable: its consumer."""

    durable: str
    replicas: int


@dataclass(frozen=True, slots=True, kw_only=True)
class RunWorkflow:
    """A workflow of the run. folder: absolute path of its files. runtime: first part of the stream's name."""

    stream: str
    folder: str
    runtime: str
    version: str
    nodes: Mapping[str, RunNode]


@dataclass(frozen=True, slots=True, kw_only=True)
class RunFile:
    """A local run. nats: addresses of servers, with commas. pid: the process of `krt run`. workflows: by name."""

    nats: str
    pid: int
    workflows: Mapping[str, RunWorkflow]

    def write(self, place: Path) -> None:
        """Write into `.krt/` of the folder `place`, which is made when missing."""
        write_json(place / FOLDER / RUN_FILE, asdict(self))

    @classmethod
    def read(cls, place: Path) -> "RunFile | None":
        """Return the run of the folder `place`, None where there is none. Raises ConfigError for a broken file."""
        found = read_json(place / FOLDER / RUN_FILE)
        if found is None:
            return None
        try:
            return cls(nats=found["nats"], pid=int(found["pid"]), workflows=_workflows(found))
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise _broken(place / FOLDER / RUN_FILE, error) from error

    @staticmethod
    def remove(place: Path) -> None:
        """Remove what tells of a run in the folder `place`, but what it leaves; repeating it is fine."""
        for name in (RUN_FILE, PROCESSES_FILE):
            (place / FOLDER / name).unlink(missing_ok=True)

    def is_alive(self) -> bool:
        """Say whether the process of `krt run` is there."""
        return is_alive(self.pid)


@dataclass(frozen=True, slots=True, kw_only=True)
class LastRun:
    """What runs with a NATS server of their own leave in a folder, for commands that look at it when they have ended.

    store: of that server, from the folder. workflows: all that have run on it, by name; the last one at the end.
    """

    store: str
    workflows: Mapping[str, RunWorkflow]

    def write(self, place: Path) -> None:
        """Add this run to those before it on the same store; one on another store is forgotten."""
        try:
            before = LastRun.read(place)
        except errors.ConfigError:  # this file replaces it
            before = None
        earlier = before.workflows if before is not None and before.store == self.store else {}
        kept = {name: each for name, each in earlier.items() if name not in self.workflows}
        write_json(place / FOLDER / LAST_FILE, asdict(replace(self, workflows={**kept, **self.workflows})))

    @classmethod
    def read(cls, place: Path) -> "LastRun | None":
        """Return what was left in the folder `place`, None for nothing. Raises ConfigError for a broken file."""
        found = read_json(place / FOLDER / LAST_FILE)
        if found is None:
            return None
        try:
            return cls(store=str(found["store"]), workflows=_workflows(found))
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise _broken(place / FOLDER / LAST_FILE, error) from error


@dataclass(frozen=True, slots=True, kw_only=True)
class ReplicaRecord:
    """A replica of the run: state is a word of `deploy.process.State`, pid is None while it does not run.

    last_error: in one line why it does not work, "" while it does.
    """

    state: str
    pid: int | None
    restarts: int
    last_error: str = ""


def write_replicas(place: Path, replicas: Mapping[str, ReplicaRecord]) -> None:
    """Write what every replica is doing, by its name (`score`, or `score/2` of several)."""
    write_json(place / FOLDER / PROCESSES_FILE, {name: asdict(replica) for name, replica in replicas.items()})


def read_replicas(place: Path) -> dict[str, ReplicaRecord]:
    """Return what every replica of the run in the folder `place` is doing. Raises ConfigError for a broken file."""
    found = read_json(place / FOLDER / PROCESSES_FILE) or {}
    try:
        return {name: ReplicaRecord(**fields) for name, fields in found.items()}
    except TypeError as error:
        raise _broken(place / FOLDER / PROCESSES_FILE, error) from error


def is_alive(pid: int) -> bool:
    """Say whether a process is there."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:  # another user's
        return True
    return True


def places_to_look(start: Path) -> Iterator[Path]:
    """Yield the folders in which a run may have left its file: `start` and its parents, nearest first."""
    resolved = start.resolve()
    yield from (resolved, *resolved.parents)


def _workflows(found: Mapping[str, Any]) -> dict[str, RunWorkflow]:
    return {name: _workflow(fields) for name, fields in found["workflows"].items()}


def _workflow(fields: Mapping[str, Any]) -> RunWorkflow:
    nodes = {
        name: RunNode(durable=node["durable"], replicas=int(node["replicas"])) for name, node in fields["nodes"].items()
    }
    return RunWorkflow(
        stream=fields["stream"],
        folder=fields["folder"],
        runtime=fields["runtime"],
        version=fields["version"],
        nodes=nodes,
    )


def write_json(file: Path, content: Mapping[str, Any]) -> None:
    """Replace a file as a whole; its owner alone may read it."""
    file.parent.mkdir(parents=True, exist_ok=True)
    # Of this process alone: two writers must not share the file that they rename.
    draft = file.with_name(f"{file.name}.{os.getpid()}")
    draft.touch(mode=0o600)  # an address may hold a password
    draft.write_text(json.dumps(content, indent=2) + "\n")
    draft.replace(file)


def read_json(file: Path) -> dict[str, Any] | None:
    """Return what `write_json` wrote, None where there is no file. Raises ConfigError for a broken one."""
    try:
        content = json.loads(file.read_text())
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (OSError, ValueError) as error:
        raise _broken(file, error) from error
    if not isinstance(content, dict):
        raise _broken(file, TypeError("no JSON object"))
    return content


def _broken(file: Path, error: Exception) -> errors.ConfigError:
    return errors.ConfigError(f"{file} cannot be read ({error!r}); remove it and start again what wrote it")
