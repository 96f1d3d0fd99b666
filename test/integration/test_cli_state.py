"""`krt state` on a real server, with the entries that a runner keeps."""

import json
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from runtime.bus.embedded import EmbeddedServer
from runtime.bus.nats import NatsBus
from runtime.cli import exits
from runtime.node.state import StateEntry
from runtime.payload import encode_value
from runtime.spec import names
from test.integration.test_cli_client import Krt
from test.support.answering_node import stream_config

STREAM = "local_dev_flow"
NOON_NS = 1_700_000_000_000_000_000


def entry(state_id: str, state: object) -> bytes:
    return StateEntry(
        state_id=state_id,
        payload=encode_value(state),
        request_id="r1",
        origin=1,
        subject=f"{STREAM}.entrypoint.main.p0",
        sequence=1,
        stored_ns=NOON_NS,
        first_number=0,
        outputs=(),
    ).encode()


@pytest.fixture
async def krt(nats_server: EmbeddedServer, tmp_path: Path) -> AsyncIterator[Krt]:
    bus = await NatsBus.connect([nats_server.url], name="runner")
    await bus.ensure_stream(stream_config(STREAM))
    for node, state_id in (("count", "cam 1"), ("count", ""), ("last", "ü")):
        bucket = await bus.key_value(names.state_bucket(STREAM, node), create=True)
        await bucket.put(names.state_key(state_id), entry(state_id, {"id": state_id}))
    await bus.key_value("state_local_dev_other_count", create=True)
    yield Krt(tmp_path)
    await bus.close()


async def test_states_are_listed_shown_and_removed(krt: Krt, nats_server: EmbeddedServer) -> None:
    here = ("--nats", nats_server.url, "--stream", STREAM)

    listed = await krt("state", "ls", "--node", "count", *here)
    as_json = await krt("state", "ls", "--json", *here)
    shown = await krt("state", "get", "last", "ü", *here)
    removed = await krt("state", "rm", "count", "", *here)
    removed_again = await krt("state", "rm", "count", "", *here)
    left = await krt("state", "ls", "--node", "count", *here)

    assert (listed[0], sorted(listed[1].splitlines())) == (
        exits.OK,
        ["count  (no id)  2023-11-14T22:13:20.000+00:00", "count  cam 1  2023-11-14T22:13:20.000+00:00"],
    )
    assert sorted((each["node"], each["state_id"]) for each in map(json.loads, as_json[1].splitlines())) == [
        ("count", ""),
        ("count", "cam 1"),
        ("last", "ü"),
    ]
    assert shown == (exits.OK, '{"id":"ü"}\n', "")
    assert removed == (exits.OK, "", "")
    assert removed_again == (exits.FAILED, "", 'node "count" has no state for ""\n')
    assert left[1].startswith("count  cam 1  ")


async def test_a_node_without_a_state_is_a_wrong_argument(krt: Krt, nats_server: EmbeddedServer) -> None:
    code, output, error = await krt("state", "get", "nobody", "a", "--nats", nats_server.url, "--stream", STREAM)

    assert (code, output) == (exits.CONFIG, "")
    assert error.startswith('"nobody" is no node with a state')
