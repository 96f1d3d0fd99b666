"""The layout of `runtime/`: imports point down, third-party packages stay in their room, files stay small."""

import ast
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

import pytest

ROOT = Path(__file__).parents[2]
RUNTIME = ROOT / "runtime"

# Rooms by layer: a room is a module or a folder directly in runtime/. `__init__` holds the public names.
LAYERS = [
    {
        "children",
        "clock",
        "collector",
        "deadletter",
        "durations",
        "environment",
        "errors",
        "gpus",
        "handover",
        "line_pipe",
        "log",
        "message",
        "module_files",
        "payload",
        "payload_arrays",
        "payload_files",
        "payload_json",
        "payload_tables",
        "proto",
        "settings",
        "threads",
        "version",
        "wire",
        "wire_v1",
        "wire_version",
        "worker_child",
        "workers",
    },
    {"spec"},
    {"bus", "stores"},
    {"algorithms", "batch", "client", "inspection", "models"},
    {"drivers", "node"},
    {"deploy", "web"},
    {"__init__", "__main__", "cli", "inference", "testing"},
]
# Layers that a room of the layer with this index may import, besides the room itself.
REACH = [{0}, {0}, {0}, {0, 1, 2}, {0, 1, 2, 3}, {0, 1, 2, 3}, {0, 1, 2, 3, 4, 5, 6}]

# Where a package may be imported: folders (ending in /) or files, relative to runtime/.
PACKAGE_HOMES: dict[str, str | tuple[str, ...]] = {
    "nats": "bus/",
    "aiohttp": "bus/websocket.py",
    "motor": "stores/mongo.py",
    "pymongo": "stores/mongo.py",
    "bson": "stores/mongo.py",
    "influxdb_client": "stores/influx.py",
    "sqlite3": "stores/",
    "typer": "cli/",
    "rich": "cli/",
    "yaml": "spec/",
    "fastapi": "drivers/",
    "starlette": "drivers/",
    "uvicorn": "drivers/",
    "httpx": ("drivers/", "batch/callbacks.py"),
    "boto3": "batch/s3_artifacts.py",
    "botocore": "batch/s3_artifacts.py",
    "grpc": "drivers/",
    "grpc_tools": "drivers/",
    "grpc_reflection": "drivers/",
    "aiomqtt": "drivers/sources/",
    "croniter": "drivers/sources/",
    "numpy": "payload_arrays.py",
    "pyarrow": ("drivers/sinks/", "models/tables.py", "payload_tables.py"),
    "pandas": "models/tables.py",
}

MAX_LINES = 450
VAGUE_NAMES = {"utils", "util", "helpers", "helper", "common", "misc"}


def source_files() -> list[PurePosixPath]:
    """Return every module of runtime/ but generated ones, relative to runtime/."""
    files = (path.relative_to(RUNTIME) for path in RUNTIME.rglob("*.py") if not path.stem.endswith("_pb2"))
    return sorted(PurePosixPath(file.as_posix()) for file in files)


def imported_modules(file: PurePosixPath, source: str) -> Iterator[str]:
    """Yield the full name of everything that a module imports, at its top, in functions and relatively.

    `from a import b` yields `a.b`, for b may be a module; what comes behind the room or package is of no interest.
    """
    package = ["runtime", *file.parent.parts]
    for statement in ast.walk(ast.parse(source)):
        if isinstance(statement, ast.Import):
            yield from (alias.name for alias in statement.names)
        elif isinstance(statement, ast.ImportFrom):
            start = package[: len(package) - statement.level + 1] if statement.level else []
            origin = [*start, *([statement.module] if statement.module else [])]
            yield from (".".join([*origin, alias.name]) for alias in statement.names)


def room_of_file(file: PurePosixPath) -> str:
    return file.parts[0].removesuffix(".py")


def layer_of(room: str) -> int | None:
    return next((number for number, rooms in enumerate(LAYERS) if room in rooms), None)


def forbidden_rooms(file: PurePosixPath, source: str) -> list[str]:
    """Return the rooms that a module imports although its layer may not; an unknown room is forbidden to all."""
    own_room = room_of_file(file)
    own_layer = layer_of(own_room)
    reach = REACH[own_layer] if own_layer is not None else set()
    imported = {(f"{module}.__init__").split(".")[1] for module in imported_modules(file, source) if is_ours(module)}
    return sorted(room for room in imported - {own_room} if layer_of(room) not in reach)


def is_ours(module: str) -> bool:
    return module.split(".")[0] == "runtime"


def strayed_packages(file: PurePosixPath, source: str) -> list[str]:
    """Return the packages that a module imports although they belong to another file or folder."""
    packages = {module.split(".")[0] for module in imported_modules(file, source)} & PACKAGE_HOMES.keys()
    return sorted(package for package in packages if not lives_in(file, PACKAGE_HOMES[package]))


def lives_in(file: PurePosixPath, homes: str | tuple[str, ...]) -> bool:
    for home in (homes,) if isinstance(homes, str) else homes:
        if str(file) == home or (home.endswith("/") and str(file).startswith(home)):
            return True
    return False


each_source_file = pytest.mark.parametrize("file", source_files(), ids=str)


def test_every_room_has_a_layer() -> None:
    rooms = {room_of_file(file) for file in source_files()}

    assert sorted(room for room in rooms if layer_of(room) is None) == []


@each_source_file
def test_imports_point_down(file: PurePosixPath) -> None:
    assert forbidden_rooms(file, (RUNTIME / file).read_text()) == []


@each_source_file
def test_third_party_packages_are_imported_in_their_own_room_only(file: PurePosixPath) -> None:
    assert strayed_packages(file, (RUNTIME / file).read_text()) == []


@each_source_file
def test_files_stay_under_the_ceiling(file: PurePosixPath) -> None:
    assert len((RUNTIME / file).read_text().splitlines()) < MAX_LINES


@each_source_file
def test_no_module_or_folder_has_a_vague_name(file: PurePosixPath) -> None:
    assert VAGUE_NAMES.isdisjoint(part.removesuffix(".py") for part in file.parts)


@pytest.mark.parametrize(
    ("file", "source", "forbidden"),
    [
        ("bus/pull.py", "from runtime.node import runner", ["node"]),
        ("bus/pull.py", "from ..node import runner", ["node"]),
        ("bus/pull.py", "from .. import node", ["node"]),
        ("bus/pull.py", "def later() -> None:\n    import runtime.node.runner", ["node"]),
        ("bus/pull.py", "from . import base\nfrom .base import Bus\nfrom runtime import errors", []),
        ("bus/pull.py", "from runtime.stores.base import Insert", ["stores"]),
        ("bus/pull.py", "from runtime import Workflow", ["Workflow"]),
        ("bus/pull.py", "import runtime", ["__init__"]),
        ("node/runner.py", "from runtime.drivers.base import Driver", ["drivers"]),
        ("drivers/base.py", "from runtime.bus.base import Bus\nfrom runtime.client import Workflow", []),
        ("client.py", "from runtime.models import cluster", ["models"]),
        ("cli/main.py", "from runtime.node import runner\nfrom runtime.deploy import plan", []),
        ("unknown.py", "from runtime import errors", ["errors"]),
    ],
)
def test_an_import_that_points_up_or_aside_is_found(file: str, source: str, forbidden: list[str]) -> None:
    assert forbidden_rooms(PurePosixPath(file), source) == forbidden


@pytest.mark.parametrize(
    ("file", "source", "strayed"),
    [
        ("node/runner.py", "from nats.aio.client import Client", ["nats"]),
        ("bus/connection.py", "from nats.aio.client import Client", []),
        ("stores/sqlite.py", "import motor.motor_asyncio\nimport sqlite3", ["motor"]),
        ("stores/mongo.py", "def connect() -> None:\n    import motor.motor_asyncio", []),
        ("cli_extra/main.py", "import typer", ["typer"]),
        ("models/tables.py", "import pyarrow", []),
        ("models/values.py", "import pyarrow", ["pyarrow"]),
    ],
)
def test_a_package_outside_its_room_is_found(file: str, source: str, strayed: list[str]) -> None:
    assert strayed_packages(PurePosixPath(file), source) == strayed
