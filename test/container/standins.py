"""Images in place of those that only a registry has: the servers of the compose file, from what tests use elsewhere.

They take the commands, variables, ports and volumes of the true ones. NATS is the true server; MongoDB is FerretDB;
InfluxDB is Debian's 1.6.7 behind a shim.
"""

import shutil
from pathlib import Path

from runtime.bus.embedded import find_binary
from runtime.deploy.compose_servers import INFLUX_IMAGE, MONGO_IMAGE, NATS_IMAGE
from test.container.podman import Podman
from test.support.influx_server import find_engine
from test.support.mongo import ferretdb_binary

TEST_ROOT = Path(__file__).parents[1]

NATS_DOCKERFILE = """
ARG BASE
FROM ${BASE}
COPY nats-server /usr/local/bin/
ENTRYPOINT ["nats-server"]
"""
MONGO_DOCKERFILE = """
ARG BASE
FROM ${BASE}
COPY ferretdb /usr/local/bin/
ENTRYPOINT ["ferretdb", "/data/db", "0.0.0.0:27017"]
"""
# On the image of the processes, for what it serves with imports the runtime; `find_engine` looks into XDG_CACHE_HOME.
INFLUX_DOCKERFILE = """
ARG BASE
FROM ${BASE}
USER root
ENV XDG_CACHE_HOME=/standin PYTHONPATH=/standin
COPY influxd /standin/krt-test/influxdb-debian/usr/bin/
COPY __init__.py /standin/test/
COPY influx_server.py /standin/test/support/
COPY serve.py /standin/
ENTRYPOINT ["python", "/standin/serve.py"]
"""


def build_nats(podman: Podman, folder: Path, base: str) -> None:
    _build(podman, folder, NATS_IMAGE, NATS_DOCKERFILE, base, {"nats-server": find_binary()})


def build_mongo(podman: Podman, folder: Path, base: str) -> None:
    """Build the stand-in; FerretDB has to be there, see `test/support/mongo.py`."""
    _build(podman, folder, MONGO_IMAGE, MONGO_DOCKERFILE, base, {"ferretdb": ferretdb_binary()})


def build_influx(podman: Podman, folder: Path, krt_image: str) -> None:
    """Build the stand-in. Raises NoInfluxError."""
    files = {
        "influxd": find_engine(),
        "__init__.py": TEST_ROOT / "__init__.py",
        "influx_server.py": TEST_ROOT / "support/influx_server.py",
        "serve.py": TEST_ROOT / "servers/influxdb/serve.py",
    }
    _build(podman, folder, INFLUX_IMAGE, INFLUX_DOCKERFILE, krt_image, files)


def _build(podman: Podman, folder: Path, image: str, dockerfile: str, base: str, files: dict[str, Path]) -> None:
    """Build an image of these files, by their names in the image. folder: an empty one, for the context."""
    for name, source in files.items():
        shutil.copy(source, folder / name)
    (folder / "Dockerfile").write_text(dockerfile)
    podman.build(str(folder / "Dockerfile"), image, context=folder, arguments={"BASE": base})
