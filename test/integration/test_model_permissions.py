"""A model cluster under the permissions that `krt permissions models.yml` prints, on a real server."""

import secrets
import subprocess
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import pytest

from runtime.bus.base import Bus, CoreMessage
from runtime.bus.bodies import pack, unpack
from runtime.bus.nats import NatsBus
from runtime.bus.presence import EXPIRY_S, Heartbeat, PresenceSet, ServiceRecord
from runtime.clock import SystemClock
from runtime.errors import BusError
from runtime.models.quarantine import Quarantine, Quarantined
from runtime.spec import names
from test.support.actions import actions
from test.support.guarded_nats import GuardedServer, guarded_server, krt

CLUSTER = "bird-game"
MODELS = f"""
cluster: {CLUSTER}
models:
  - {{id: m1, code: alpha}}
  - {{id: M_2, code: beta}}
"""
CALL = names.model_subject(CLUSTER, "m1", "d1", "call")
STORE = names.model_store(CLUSTER)

Connect = Callable[[str], Awaitable[NatsBus]]


@pytest.fixture
def models(tmp_path: Path) -> Path:
    for name in ("alpha", "beta"):
        (tmp_path / name).mkdir()
    (tmp_path / "models.yml").write_text(MODELS)
    return tmp_path / "models.yml"


@pytest.fixture
async def server(models: Path, tmp_path: Path, nats_server_binary: Path) -> AsyncIterator[GuardedServer]:
    guarded, _ = guarded_server(tmp_path, nats_server_binary, [models])
    await guarded.start()
    yield guarded
    await guarded.stop()
    print(f"log of the nats-server:\n{guarded.log_tail(lines=50)}")


@pytest.fixture
async def connect(server: GuardedServer, tmp_path: Path) -> AsyncIterator[Connect]:
    """Connect as one of the cluster's users."""
    connected: list[NatsBus] = []

    async def connect(user: str) -> NatsBus:
        credentials = tmp_path / "credentials" / CLUSTER / user
        bus = await NatsBus.connect([server.url], name=user, credentials=credentials, request_timeout_s=0.5)
        connected.append(bus)
        return bus

    yield connect
    for bus in connected:
        await bus.close()


def presence_of(bus: Bus, model_id: str) -> Heartbeat:
    key = names.presence_key(names.MODEL, CLUSTER, model_id, "d1")
    record = ServiceRecord.of_this_process(names.MODEL, model_id)
    return Heartbeat(bus, names.PRESENCE_BUCKET, key, lambda: record, SystemClock())


def violations(server: GuardedServer) -> int:
    return server.log_tail(lines=2_000).count("Violation")


# --- allowed ---


async def test_a_model_is_seen_called_and_answers(connect: Connect, server: GuardedServer) -> None:
    host, coordinator = await connect("model.m1"), await connect("coordinator")
    await host.subscribe(
        names.model_subject(CLUSTER, "m1", "d1", ">"), lambda asked: host.send(asked.reply, b"answer to " + asked.data)
    )

    async with presence_of(host, "m1") as heartbeat:
        await heartbeat.beat()
        seen = await PresenceSet.open(
            coordinator, names.PRESENCE_BUCKET, names.model_presence_keys(CLUSTER), SystemClock()
        )
        answer = await coordinator.request(CALL, b"tick", timeout_s=5)
        await seen.close()

    assert list(seen.records) == ["model.bird-game.m1.d1"]
    assert answer.data == b"answer to tick"
    assert violations(server) == 0


async def test_a_body_larger_than_a_message_travels_both_ways(connect: Connect, server: GuardedServer) -> None:
    host, coordinator = await connect("model.m1"), await connect("coordinator")
    sent = secrets.token_bytes(2 * host.max_payload_bytes)

    there = await pack(coordinator, STORE, sent)
    arrived = await unpack(host, STORE, there.data, there.headers)
    back = await pack(host, STORE, arrived[::-1])
    returned = await unpack(coordinator, STORE, back.data, back.headers)

    assert returned == sent[::-1]
    assert violations(server) == 0


async def test_the_operator_keeps_the_quarantine_and_stops_models(connect: Connect, server: GuardedServer) -> None:
    host, operator = await connect("model.m1"), await connect("operator")
    stop = names.model_subject(CLUSTER, "m1", "d1", "stop")
    await host.subscribe(stop, lambda asked: host.send(asked.reply, b"{}"))
    entry = Quarantined(model_id="m1", digest="aa", reason="MULTIPLE_FAILED", at_ms=1)

    quarantine = await Quarantine.open(operator, CLUSTER)
    watching = await quarantine.watch(lambda key, found: None)
    await quarantine.add(entry)
    lifted = await quarantine.release("m1")
    answer = await operator.request(stop, b"{}", timeout_s=5)
    await watching.unsubscribe()

    assert lifted == [entry]
    assert answer.data == b"{}"
    assert violations(server) == 0


# --- refused ---

Attempt = Callable[[NatsBus], Awaitable[object]]


async def _announce(bus: NatsBus, key: str) -> None:
    bucket = await bus.expiring_key_value(names.PRESENCE_BUCKET, ttl_s=EXPIRY_S)
    await bucket.put(key, b"{}")


def _ask(model_id: str, action: str) -> Attempt:
    return lambda bus: bus.request(names.model_subject(CLUSTER, model_id, "d1", action), b"", timeout_s=0.3)


def _listen(subject: str) -> Attempt:
    return lambda bus: bus.subscribe(subject, _drop)


def _drop(message: CoreMessage) -> None: ...


REFUSED: dict[str, Attempt] = {
    "tells of another model": lambda bus: _announce(bus, names.presence_key("model", CLUSTER, "M_2", "d1")),
    "tells of a fleet": lambda bus: _announce(bus, names.presence_key("fleet", CLUSTER, "f1")),
    "hears what another is asked": _listen(names.model_subject(CLUSTER, "M_2", "d1", ">")),
    "hears what all are asked": _listen(names.model_subject(CLUSTER, "*", "*", ">")),
    "hears answers to the coordinator": _listen(f"{names.inbox_prefix(CLUSTER, 'coordinator')}.>"),
    "answers unasked": lambda bus: _send_unasked(bus),
    "calls another": _ask("M_2", "call"),
    "reports another": _ask("M_2", "report"),
    "stops another": _ask("M_2", "stop"),
    "lifts the quarantine": lambda bus: _release(bus),
}


async def _send_unasked(bus: NatsBus) -> None:
    """As a request, which fails; a message that nobody confirms would be dropped in silence."""
    await bus.request(f"{names.inbox_prefix(CLUSTER, 'coordinator')}.x", b"", timeout_s=0.3)


async def _release(bus: NatsBus) -> None:
    bucket = await bus.key_value(names.quarantine_bucket(CLUSTER))
    await bucket.put("m1.aa", b"{}")


async def test_a_model_that_speaks_for_another_is_refused_and_logged(connect: Connect, server: GuardedServer) -> None:
    operator, host = await connect("operator"), await connect("model.m1")
    await Quarantine.open(operator, CLUSTER)

    granted = []
    for what, attempt in REFUSED.items():
        with actions() as logged:
            try:
                await attempt(host)
                granted.append(what)
            except BusError:
                await logged.wait_for("nats-refused", patience_s=5)

    assert granted == []
    assert violations(server) >= len(REFUSED)


async def test_the_operator_calls_no_model(connect: Connect) -> None:
    operator = await connect("operator")

    with actions() as logged:
        with pytest.raises(BusError):
            await _ask("m1", "call")(operator)

        await logged.wait_for("nats-refused", patience_s=5)


# --- the command ---


def test_users_of_workflows_and_clusters_are_one_configuration(
    models: Path, tmp_path: Path, nats_server_binary: Path
) -> None:
    flow = tmp_path / "flow"
    flow.mkdir()
    (flow / "workflow.yaml").write_text("name: flow\nnodes: [{name: a, handler: a.py}]\n")
    guarded, credentials = guarded_server(tmp_path, nats_server_binary, [flow, models])

    checked = subprocess.run(
        [nats_server_binary, "-t", "-c", guarded._configuration], capture_output=True, text=True, check=False
    )

    assert checked.returncode == 0, checked.stderr
    assert sorted(path.name for path in (credentials / CLUSTER).iterdir()) == [
        "coordinator",
        "model.M_2",
        "model.m1",
        "operator",
    ]


def test_a_wrong_models_file_is_told_with_its_places(tmp_path: Path) -> None:
    (tmp_path / "models.yml").write_text("cluster: c\nmodels: [{id: m1}]\n")

    done = krt(tmp_path, "permissions", "models.yml")

    assert done.returncode == 2
    assert done.stderr.strip() == 'models.yml:2:10: model "m1" has no "code"; add one [missing-key]'
