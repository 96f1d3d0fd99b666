"""A real InfluxDB for tests: the one of KRT_TEST_INFLUX_URI, else Debian's influxdb 1.6.7, unpacked and not installed.

KRT_TEST_INFLUX_URI names an InfluxDB 1.8 without authentication, where databases may be created; or with
KRT_TEST_INFLUX_TOKEN and KRT_TEST_INFLUX_ORG an InfluxDB 2.7, where the token may make buckets. 1.6.7 has 1.8's storage
engine, but knows only `/write`: a shim in front of it takes what the client sends to `/api/v2/write`.
"""

import http.client
import json
import os
import shutil
import subprocess
import tempfile
import threading
import time
import uuid
from collections.abc import Iterator, Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlencode, urlsplit

from runtime.children import die_with_parent
from runtime.stores.base import Point
from runtime.stores.influx import InfluxPointStore

VARIABLE = "KRT_TEST_INFLUX_URI"
TOKEN_VARIABLE, ORG_VARIABLE = "KRT_TEST_INFLUX_TOKEN", "KRT_TEST_INFLUX_ORG"
PACKAGE = "influxdb"
CACHE = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "krt-test" / "influxdb-debian"
# Seconds for downloading and unpacking 5 MB, and for the start of the engine, which takes 0.2.
FETCH_S, START_S = 60.0, 10.0

CONFIGURATION = """
reporting-disabled = true
bind-address = "127.0.0.1:0"
[meta]
dir = "{folder}/meta"
[data]
dir = "{folder}/data"
wal-dir = "{folder}/wal"
[monitor]
store-enabled = false
[http]
bind-address = "127.0.0.1:{port}"
log-enabled = false
[retention]
enabled = false
"""
_TYPES = {"integer": int, "float": float, "boolean": bool, "string": str}


class NoInfluxError(Exception):
    """There is no InfluxDB on this machine; the message says what is missing."""


def describe() -> str:
    """Return the line of the test header."""
    if os.environ.get(VARIABLE):
        return f"tests of InfluxDB run on: the server of {VARIABLE}"
    fetched = "" if CACHE.exists() else ", which apt-get has to download first"
    return f"tests of InfluxDB run on: Debian's influxdb 1.6.7 behind a shim for /api/v2/write{fetched}"


def find_engine() -> Path:
    """Return `influxd`, unpacked from Debian's package once into the user's cache. Raises NoInfluxError."""
    engine = CACHE / "usr" / "bin" / "influxd"
    if engine.exists():
        return engine
    if not shutil.which("apt-get") or not shutil.which("dpkg"):
        raise NoInfluxError(f"no InfluxDB: set {VARIABLE} (apt-get and dpkg, which would bring one, are missing)")
    CACHE.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=CACHE.parent) as folder:
        try:
            _run("apt-get", "download", "-qq", PACKAGE, folder=folder)
            (package,) = Path(folder).glob("*.deb")
            _run("dpkg", "-x", package.name, "unpacked", folder=folder)
        except subprocess.SubprocessError as error:
            raise NoInfluxError(f"no InfluxDB: set {VARIABLE}, or let apt-get find '{PACKAGE}' ({error})") from error
        try:
            (Path(folder) / "unpacked").rename(CACHE)
        except OSError:  # another test process was faster
            assert engine.exists()
    return engine


class InfluxServer:
    """A server with `/api/v2/write` and `/query`; one that `is_ours` may be stopped and started again.

    url, token, org: for the store. Databases that are made on somebody else's server stay there.
    """

    def __init__(self, folder: Path, address: tuple[str, int] = ("127.0.0.1", 0)) -> None:
        """Take the given server, or start one with its data in `folder`. address: where ours listens; port 0: any."""
        self._folder = folder
        self._engine_port = 0
        self._process: subprocess.Popen[bytes] | None = None
        self._shim: _Shim | None = None
        self.url = os.environ.get(VARIABLE, "")
        self.is_ours = not self.url
        self.token = "" if self.is_ours else os.environ.get(TOKEN_VARIABLE, "")
        self.org = "" if self.is_ours else os.environ.get(ORG_VARIABLE, "")
        if self.is_ours:
            self.start_engine()
            self._shim = _Shim(address, self._engine_port)
            self.url = f"http://127.0.0.1:{self._shim.server_port}"

    @property
    def has_buckets(self) -> bool:
        """Whether this is an InfluxDB 2, which has buckets in place of databases with retention policies."""
        return bool(self.token)

    def start_engine(self) -> None:
        """Start the engine with what it has stored, on the port that it had before."""
        configuration = self._folder / "influxdb.conf"
        configuration.write_text(CONFIGURATION.format(folder=self._folder, port=self._engine_port))
        with open(self._folder / "influxd.log", "ab") as log:
            start = log.tell()
            command = [str(find_engine()), "run", "-config", str(configuration)]
            # So that a killed test run leaves no server behind.
            self._process = subprocess.Popen(command, stdout=log, stderr=log, preexec_fn=die_with_parent())
        self._engine_port = self._port(start)

    def stop_engine(self) -> None:
        if self._process is not None:
            self._process.terminate()
            self._process.wait()

    def close(self) -> None:
        if self._shim is not None:
            self._shim.close()
        self.stop_engine()

    def create_database(self, name: str = "") -> str:
        """Make an empty database, or a bucket that answers as one; returns its name, by default a new one."""
        name = name or f"krt-test-{uuid.uuid4().hex}"
        if self.has_buckets:
            self._create_bucket(name)
        else:
            self._query(f'CREATE DATABASE "{name}"', method="POST")
        return name

    def points(self, database: str, measurement: str) -> list[Point]:
        """Return all points of a measurement, oldest first."""
        keys, found = self._query(
            f'SHOW FIELD KEYS FROM "{measurement}"; SELECT * FROM "{measurement}" GROUP BY *', database
        )
        types = {name: _TYPES[kind] for series in keys.get("series", []) for name, kind in series["values"]}
        points = []
        for series in found.get("series", []):
            names = series["columns"][1:]
            for time_ns, *values in series["values"]:
                fields = {
                    name: types[name](value) for name, value in zip(names, values, strict=True) if value is not None
                }
                points.append(Point(measurement, fields, series.get("tags", {}), time_ns))
        return sorted(points, key=lambda point: point.time_ns)

    def _create_bucket(self, name: str) -> None:
        found = self._ask("GET", "/api/v2/orgs?" + urlencode({"org": self.org}))
        bucket = {"orgID": found["orgs"][0]["id"], "name": name, "retentionRules": []}
        self._ask("POST", "/api/v2/buckets", json.dumps(bucket).encode())

    def _query(self, statement: str, database: str = "", *, method: str = "GET") -> list[dict[str, Any]]:
        answer = self._ask(method, "/query?" + urlencode({"db": database, "epoch": "ns", "q": statement}))
        results: list[dict[str, Any]] = answer["results"]
        assert not any("error" in result for result in results), results
        return results

    def _ask(self, method: str, target: str, body: bytes = b"") -> Any:
        headers = {"Authorization": f"Token {self.token}"} if self.token else {}
        status, answer = _request(urlsplit(self.url).netloc, method, target, body, headers)
        assert status in (200, 201), answer
        return json.loads(answer)

    def _port(self, start: int) -> int:
        """Return the port that the engine logs, once it listens."""
        assert self._process is not None
        give_up_at = time.monotonic() + START_S
        while time.monotonic() < give_up_at and self._process.poll() is None:
            text = (self._folder / "influxd.log").read_bytes()[start:].decode()
            for line in text.splitlines(keepends=True):
                if "Listening on HTTP" in line and line.endswith("\n"):
                    return int(line.split("addr=127.0.0.1:")[1].split()[0])
            time.sleep(0.02)
        self.stop_engine()
        raise AssertionError(f"influxd does not start: {(self._folder / 'influxd.log').read_text()}")


def serve_influx(folder: Path) -> Iterator[InfluxServer]:
    """Run a server in a folder of its own for as long as a fixture needs it. Raises NoInfluxError."""
    server = InfluxServer(folder)
    yield server
    server.close()


class ReadableInfluxPoints(InfluxPointStore):
    """The store under test, with a way to look into its server."""

    def __init__(self, server: InfluxServer, database: str) -> None:
        super().__init__(server.url, token=server.token, org=server.org, bucket=database)
        self._server = server

    async def query(self, measurement: str, *, limit: int = 0) -> list[Point]:
        return self._server.points(self._bucket, measurement)[: limit or None]


class _Shim(ThreadingHTTPServer):
    """Turns `/api/v2/write?bucket=DB/RP` into `/write?db=DB&rp=RP`, and hands `/query` on as it is."""

    daemon_threads = True

    def __init__(self, address: tuple[str, int], engine_port: int) -> None:
        super().__init__(address, _ShimHandler)
        self.engine_address = f"127.0.0.1:{engine_port}"
        self._thread = threading.Thread(target=self.serve_forever, args=(0.01,), name="influx-shim")
        self._thread.start()

    def close(self) -> None:
        self.shutdown()
        self.server_close()
        self._thread.join()


class _ShimHandler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    server: _Shim

    def do_GET(self) -> None:
        self._hand_on(self.path)

    def do_POST(self) -> None:
        parts = urlsplit(self.path)
        if parts.path == "/query":
            self._hand_on(self.path)
            return
        query = {name: values[0] for name, values in parse_qs(parts.query).items()}
        assert parts.path == "/api/v2/write" and query["precision"] == "ns"
        database, _, policy = query["bucket"].partition("/")
        self._hand_on("/write?" + urlencode({"db": database, "rp": policy, "precision": "ns"}))

    def _hand_on(self, target: str) -> None:
        """Send the request to the engine, and its answer back."""
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        try:
            status, answer = _request(self.server.engine_address, self.command, target, body)
        except OSError:  # the engine is stopped: the client loses its connection, as it would without a shim
            self.close_connection = True
            return
        self.send_response(status)
        if status != 204:
            self.send_header("Content-Length", str(len(answer)))
        self.end_headers()
        self.wfile.write(answer)

    def log_message(self, format: str, *args: Any) -> None:
        pass


def _request(
    address: str, method: str, target: str, body: bytes = b"", headers: Mapping[str, str] | None = None
) -> tuple[int, bytes]:
    connection = http.client.HTTPConnection(address, timeout=START_S)
    try:
        connection.request(method, target, body, headers or {})
        response = connection.getresponse()
        return response.status, response.read()
    finally:
        connection.close()


def _run(*command: str, folder: str) -> None:
    subprocess.run(command, cwd=folder, check=True, capture_output=True, timeout=FETCH_S)
