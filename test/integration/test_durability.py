"""What `krt status` tells of how safe a stream is: its copies, and how often they are forced to the disk."""

from collections.abc import Callable
from typing import Any

import pytest

from runtime.bus.base import Follower, StreamPlacement
from runtime.bus.embedded import EmbeddedServer
from runtime.cli.monitoring import sync_interval
from runtime.cli.status import describe_stream
from test.support.ports import free_port

FOLLOWERS = (
    Follower(name="n2", offline=False, current=True, lag=0),
    Follower(name="n3", offline=True, current=False, lag=7),
    Follower(name="n4", offline=False, current=False, lag=1_200),
)
LINES = [
    (StreamPlacement(storage="file", replicas=1), "stream: file on 1 server; synced every 120 s"),
    (StreamPlacement(storage="memory", replicas=1), "stream: memory on 1 server; lost when its servers end"),
    (StreamPlacement(storage="file", replicas=3), "stream: file on 3 servers, without a leader; synced every 120 s"),
    (
        StreamPlacement(storage="file", replicas=4, leader="n1", followers=FOLLOWERS),
        "stream: file on 4 servers, led by n1; behind: n3 offline, n4 lags by 1,200; synced every 120 s",
    ),
]


@pytest.mark.parametrize(("placement", "line"), LINES)
def test_a_line_says_where_the_stream_is_and_who_is_behind(placement: StreamPlacement, line: str) -> None:
    assert describe_stream(placement, "every 120 s") == line


@pytest.mark.parametrize(
    ("options", "told"), [({}, "every 120 s"), ({"jetstream": {"sync_interval": "always"}}, "every write")]
)
async def test_the_monitoring_port_tells_how_often_files_are_synced(
    start_nats_server: Callable[..., EmbeddedServer], options: dict[str, Any], told: str
) -> None:
    port = free_port()
    start_nats_server(http=f"127.0.0.1:{port}", **options)

    assert await sync_interval(f"http://127.0.0.1:{port}/") == told


async def test_a_status_that_was_not_asked_how_often_files_are_synced_does_not_speak_of_it() -> None:
    sync = await sync_interval("")

    assert describe_stream(StreamPlacement(storage="file", replicas=1), sync) == "stream: file on 1 server"


@pytest.mark.parametrize("url", ["http://127.0.0.1:1", "nats://127.0.0.1:4222"])
async def test_what_cannot_be_found_out_is_called_unknown(url: str) -> None:
    assert (await sync_interval(url)).startswith("unknown")
