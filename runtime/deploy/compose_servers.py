"""The servers of a compose file, each a service with a volume and a health check. Pure.

Only containers of the file reach MongoDB and InfluxDB. NATS listens on this machine's loopback address too, for
`krt send` and `krt status`. Values that compose takes from its environment have defaults for use on one machine.
"""

from typing import Any

NATS, MONGO, INFLUX = "nats", "mongo", "influx"

# Not the plain tag: that image holds nothing but the server, and so no program for the health check.
NATS_IMAGE = "docker.io/library/nats:2.12-alpine"
MONGO_IMAGE = "docker.io/library/mongo:8.0"
INFLUX_IMAGE = "docker.io/library/influxdb:2.7-alpine"

NATS_MONITORING_PORT = 8222
NATS_URL = f"nats://{NATS}:4222"
MONGO_URI = f"mongodb://{MONGO}:27017"
INFLUX_URI = f"http://{INFLUX}:8086"
INFLUX_ORG = "krt"
INFLUX_TOKEN = "${KRT_INFLUX_TOKEN:-krt-local-token}"
INFLUX_PASSWORD = "${KRT_INFLUX_PASSWORD:-krt-local-password}"


def nats() -> dict[str, Any]:
    """Return NATS with JetStream."""
    url = f"http://127.0.0.1:{NATS_MONITORING_PORT}/healthz?js-enabled-only=true"
    return {
        "image": NATS_IMAGE,
        "command": ["--jetstream", "--store_dir", "/data", "--http_port", str(NATS_MONITORING_PORT)],
        "ports": ["127.0.0.1:${KRT_NATS_PORT:-4222}:4222"],
        **_kept(NATS, "/data"),
        "healthcheck": _health_check("wget", "-q", "-O", "/dev/null", url),
    }


def mongo() -> dict[str, Any]:
    """Return MongoDB, without a login."""
    return {
        "image": MONGO_IMAGE,
        **_kept(MONGO, "/data/db"),
        "healthcheck": _health_check("mongosh", "--quiet", "--eval", "quit(db.adminCommand('ping').ok ? 0 : 1)"),
    }


def influx(bucket: str) -> dict[str, Any]:
    """Return InfluxDB 2, which makes organization, bucket and token at its first start."""
    return {
        "image": INFLUX_IMAGE,
        "environment": {
            "DOCKER_INFLUXDB_INIT_MODE": "setup",
            "DOCKER_INFLUXDB_INIT_USERNAME": "krt",
            "DOCKER_INFLUXDB_INIT_PASSWORD": INFLUX_PASSWORD,
            "DOCKER_INFLUXDB_INIT_ADMIN_TOKEN": INFLUX_TOKEN,
            "DOCKER_INFLUXDB_INIT_ORG": INFLUX_ORG,
            "DOCKER_INFLUXDB_INIT_BUCKET": bucket,
        },
        **_kept(INFLUX, "/var/lib/influxdb2"),
        "healthcheck": _health_check("influx", "ping"),
    }


def _kept(volume: str, target: str) -> dict[str, Any]:
    return {"volumes": [{"type": "volume", "source": volume, "target": target}], "restart": "unless-stopped"}


def _health_check(*command: str) -> dict[str, Any]:
    # The start is long enough for the setup of an empty volume.
    return {"test": ["CMD", *command], "interval": "5s", "timeout": "5s", "retries": 5, "start_period": "30s"}
