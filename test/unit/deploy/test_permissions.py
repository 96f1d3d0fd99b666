"""Permissions follow the plan: whatever a workflow gains, its users may use, and nobody else."""

from pathlib import Path

import pytest

from runtime.deploy.permissions import Permissions, permissions
from runtime.deploy.plan import Target, plan
from runtime.spec import names
from runtime.spec.load import load

WORKFLOW = """
name: flow
objects: {pictures: {}, sounds: {}}
nodes:
  - {name: first, handler: a.py, object_store: pictures}
  - {name: counts, handler: b.py, object_store: sounds, state: {}}
drivers:
  web: {class: source-sink, sinks: {out: {class: log, from: workflow}}}
"""
# Nodes and processes that use what all workflows share.
SHARING = """
name: flow
nodes:
  - {name: players, kind: models, cluster: game, base_class: game.Player, calls: [{method: predict}]}
  - {name: work, kind: dispatch}
algorithms: {images: {adapter: algorithms/images}}
drivers:
  open: {class: http, args: {algorithms: true}}
  hosts: {class: http, args: {algorithm_hosts: ["http://*.internal:5000"]}}
  plain: http
"""


@pytest.fixture
def users(tmp_path: Path) -> dict[str, Permissions]:
    return users_of(tmp_path, WORKFLOW)


def users_of(tmp_path: Path, workflow: str) -> dict[str, Permissions]:
    (tmp_path / "workflow.yaml").write_text(workflow)
    target = Target(
        nats_servers=(), mongo_uri="", influx_uri="", base_path=str(tmp_path),
        writer_subject=names.writer_subject("local_dev_flow"),
    )  # fmt: skip
    return {user.process: user for user in permissions(plan(load(tmp_path), target))}


def test_every_process_of_the_plan_has_a_user_and_so_have_those_who_use_it(users: dict[str, Permissions]) -> None:
    assert list(users) == [
        "krt.manager",
        "krt.writer",
        "first",
        "counts",
        "krt.driver.web",
        "krt.client",
        "krt.drivers",
        "krt.operator",
    ]


def test_a_driver_may_send_requests_and_is_answered_and_asked(users: dict[str, Permissions]) -> None:
    driver = users["krt.driver.web"]

    assert "local_dev_flow.entrypoint" in driver.publish
    assert "_INBOX.local_dev_flow.krt_driver_web.>" in users["counts"].publish
    assert "driver.local_dev_flow.*.>" in driver.subscribe and driver.answers


def test_a_driver_acknowledges_for_its_own_sinks_alone(users: dict[str, Permissions]) -> None:
    acks = [subject for subject in users["krt.driver.web"].publish if subject.startswith("$JS.ACK.")]

    assert acks == ["$JS.ACK.local_dev_flow.web_out_sink.>"]


def test_nobody_may_read_the_inbox_of_another(users: dict[str, Permissions]) -> None:
    inboxes = [[subject for subject in user.subscribe if subject.startswith("_INBOX")] for user in users.values()]

    assert all(len(own) == 1 for own in inboxes)
    assert len({own[0] for own in inboxes}) == len(users)


def test_no_permission_is_wider_than_a_workflow(users: dict[str, Permissions]) -> None:
    subjects = {subject for user in users.values() for subject in (*user.publish, *user.subscribe)}
    of_all = {"$JS.API.STREAM.LIST", "$JS.API.STREAM.NAMES"}

    # What is of this version holds its name; who is present all workflows share.
    foreign = [subject for subject in subjects - of_all if "local_dev" not in subject and "presence" not in subject]

    assert foreign == []


def test_who_sends_requests_cancels_them_and_every_node_hears_of_it(users: dict[str, Permissions]) -> None:
    cancelled = names.cancel_subject("local_dev_flow")

    senders = {name for name, user in users.items() if cancelled in user.publish}
    listeners = {name for name, user in users.items() if cancelled in user.subscribe}

    assert senders == {"krt.driver.web", "krt.client", "krt.operator"}
    assert listeners == {"first", "counts"}


def test_a_node_reads_the_consumers_of_its_partitions(users: dict[str, Permissions]) -> None:
    acks = [subject for subject in users["counts"].publish if subject.startswith("$JS.ACK.")]

    assert acks == [f"$JS.ACK.local_dev_flow.counts_p{number}__first.>" for number in range(16)]


def test_states_and_objects_belong_to_the_node_that_has_them(users: dict[str, Permissions]) -> None:
    state, objects = "$KV.state_local_dev_flow_counts.>", "$O.local_dev_flow_pictures.>"

    writers = {name for name, user in users.items() if state in user.publish}
    senders = {name for name, user in users.items() if objects in user.publish}

    assert writers == {"krt.manager", "counts", "krt.operator"}
    assert senders == {"krt.manager", "first", "krt.operator"}


def test_nodes_that_call_models_or_algorithms_may_ask_them_and_runners_are_asked(tmp_path: Path) -> None:
    users = users_of(tmp_path, SHARING)
    runner = users["krt.algorithms.images"]

    assert "model.game.*.*.call" in users["players"].publish
    assert "algorithm.*.>" in users["work"].publish
    assert not any(subject.startswith("model.") for subject in users["work"].publish)
    assert not any(subject.startswith("algorithm.") for subject in users["players"].publish)
    assert "algorithm.*.*" in runner.subscribe
    assert "$KV.presence.algorithm.images.>" in runner.publish
    assert not any(subject.startswith("local_dev_flow.") for subject in runner.publish)


def test_http_drivers_call_and_serve_algorithms_where_the_file_says_so(tmp_path: Path) -> None:
    users = users_of(tmp_path, SHARING)
    drivers = {name: users[f"krt.driver.{name}"] for name in ("open", "hosts", "plain")}

    calling = {name for name, user in drivers.items() if "algorithm.*.>" in user.publish}
    telling = {name for name, user in drivers.items() if "$KV.presence.algorithm.*.>" in user.publish}
    asked = {name for name, user in drivers.items() if "algorithm.*.*" in user.subscribe}

    assert (calling, telling, asked) == ({"open", "hosts"}, {"hosts"}, {"hosts"})


def test_the_process_of_a_chain_may_what_each_of_its_nodes_needs(tmp_path: Path) -> None:
    workflow = """
name: flow
objects: {pictures: {}, sounds: {}}
nodes:
  - {name: clean, handler: a.py}
  - {name: score, handler: b.py, object_store: sounds}
fuse: [clean, score]
"""

    users = users_of(tmp_path, workflow)

    stream = "local_dev_flow"
    assert "score" not in users
    needed = {
        f"{stream}.score",
        f"{stream}_dlq.score",
        f"$KV.key-store_{stream}_score.>",
        f"$O.{stream}_sounds.>",
        f"$KV.presence.node.{stream}.score.>",
    }
    assert needed <= {*users["clean"].publish}
