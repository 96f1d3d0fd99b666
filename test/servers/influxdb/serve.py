"""Serves InfluxDB in a container the way its image does: on port 8086, with the bucket that it is told to make.

The server is that of the tests, Debian's influxdb 1.6.7 behind a shim; token and organization are not asked for.
"""

import os
import signal
from pathlib import Path

from test.support.influx_server import InfluxServer

# Held in a name: the engine lives as long as the server object.
server = InfluxServer(Path("/var/lib/influxdb2"), ("0.0.0.0", 8086))
server.create_database(os.environ["DOCKER_INFLUXDB_INIT_BUCKET"])
signal.pause()
