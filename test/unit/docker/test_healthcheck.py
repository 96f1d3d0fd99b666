"""The health check of the image: which connections it counts."""

import runpy
from pathlib import Path
from typing import Any

import pytest

HEALTHCHECK = runpy.run_path(str(Path(__file__).parents[3] / "docker/healthcheck.py"))

# 107E is 4222: one connection to a server, one that is closing, one of a client of ours, one that only listens.
TABLE = """\
  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode
   0: 0200580A:A3F4 0300580A:107E 01 00000000:00000000 02:00000E5F 00000000 10001        0 501 2 0000000000000000 20 4
   1: 0200580A:A3F6 0300580A:107E 06 00000000:00000000 03:00000E5F 00000000     0        0 502 3 0000000000000000
   2: 0200580A:107E 0300580A:A3F8 01 00000000:00000000 02:00000E5F 00000000 10001        0 503 2 0000000000000000 20 4
   3: 00000000:107E 00000000:0000 0A 00000000:00000000 00:00000000 00000000 10001        0 504 1 0000000000000000 100 0
"""


@pytest.mark.parametrize(
    ("servers", "ports"),
    [
        ("nats", {4222}),
        ("nats://nats:4333", {4333}),
        ("tls://one:1, user:secret@two:2 ,three", {1, 2, 4222}),
        ("ws://one,wss://two,wss://three:8443", {80, 443, 8443}),
        ("", {4222}),
    ],
)
def test_ports_are_those_of_every_server(servers: str, ports: set[int]) -> None:
    assert HEALTHCHECK["ports"](servers) == ports


@pytest.mark.parametrize(("ports", "sockets"), [({4222}, {"501"}), ({4333}, set())])
def test_only_a_standing_connection_to_the_port_of_a_server_counts(ports: set[int], sockets: set[Any]) -> None:
    assert HEALTHCHECK["connected_sockets"](TABLE, ports) == sockets
