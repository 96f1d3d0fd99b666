"""The server behind tests of MongoDB, best one first: a given one, FerretDB on SQLite, or the stand-in.

FerretDB is a server of its own that speaks MongoDB's protocol. It takes minutes to build, so tests take it only where
`python -m test.support.mongo` has built it once (Go 1.24 or later, and a module proxy).
"""

import hashlib
import os
import select
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from test.support.mongo_wire import serve_standin

URI_VARIABLE = "KRT_TEST_MONGO_URI"
FERRETDB_VERSION = "1.24.2"
FERRETDB_SOURCE = Path(__file__).parents[1] / "servers" / "ferretdb"
# Seconds that FerretDB may take to start and to stop; it takes a tenth of one.
_PATIENCE_S = 20.0


@dataclass(frozen=True, slots=True)
class MongoServer:
    """A server to test against. name: what it is, for people and for tests that have to know."""

    name: str
    uri: str


def ferretdb_binary() -> Path:
    """Return where the built server lies, in the user's cache; one file per version of it and of our main program."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    program = hashlib.sha256((FERRETDB_SOURCE / "main.go").read_bytes()).hexdigest()[:8]
    return cache / "krt" / f"ferretdb-{FERRETDB_VERSION}-{program}" / "ferretdb"


def choice() -> str:
    """Say which server tests get: `given`, `ferretdb` or `stand-in`."""
    if os.environ.get(URI_VARIABLE):
        return "given"
    return "ferretdb" if ferretdb_binary().is_file() else "stand-in"


def describe() -> str:
    """Return the line of the test header."""
    return (
        "tests of MongoDB run on: "
        + {
            "given": f"the server of {URI_VARIABLE}",
            "ferretdb": f"FerretDB {FERRETDB_VERSION} (SQLite), which is not MongoDB",
            "stand-in": "the stand-in test/support/mongo_wire.py, which is not MongoDB",
        }[choice()]
    )


@contextmanager
def serve_mongo() -> Iterator[MongoServer]:
    """Run the chosen server, if it is not given."""
    name = choice()
    if name == "given":
        yield MongoServer(name, os.environ[URI_VARIABLE])
    elif name == "ferretdb":
        with _ferretdb() as uri:
            yield MongoServer(name, uri)
    else:
        with serve_standin() as standin:
            yield MongoServer(name, standin.uri)


@contextmanager
def _ferretdb() -> Iterator[str]:
    with tempfile.TemporaryDirectory(prefix="krt-ferretdb-") as folder:
        log_file = Path(folder) / "log"
        (Path(folder) / "data").mkdir()
        with (
            log_file.open("w") as log,
            subprocess.Popen(
                [ferretdb_binary(), Path(folder) / "data"], stdout=subprocess.PIPE, stderr=log, text=True
            ) as process,
        ):
            assert process.stdout is not None
            try:
                if not select.select([process.stdout], [], [], _PATIENCE_S)[0]:
                    raise AssertionError(f"FerretDB does not start:\n{log_file.read_text()}")
                yield process.stdout.readline().strip()
            finally:
                process.send_signal(signal.SIGTERM)
                process.wait(_PATIENCE_S)


def build_ferretdb() -> None:
    """Build the server into the cache, unless it is there (a minute or two)."""
    go = shutil.which("go") or "/usr/local/go/bin/go"
    binary = ferretdb_binary()
    if binary.is_file():
        return
    binary.parent.mkdir(parents=True, exist_ok=True)
    unfinished = binary.with_suffix(".new")
    command = [go, "build", "-trimpath", "-o", str(unfinished), "."]
    # SQLite is a translation to Go there, so no C compiler is needed.
    subprocess.run(command, cwd=FERRETDB_SOURCE, env=os.environ | {"CGO_ENABLED": "0"}, check=True)
    unfinished.rename(binary)


if __name__ == "__main__":
    build_ferretdb()
    sys.stdout.write(f"{ferretdb_binary()}\n")
