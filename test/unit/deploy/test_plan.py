"""From a workflow to its processes: what each is told, and where errors go."""

import hashlib
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from runtime import settings
from runtime.deploy.manager_spec import manager_spec
from runtime.deploy.plan import Target, handler_versions, plan
from runtime.deploy.process import Process
from runtime.deploy.wiring import error_source
from runtime.errors import ConfigError
from runtime.spec.claims import ClaimsSpec
from runtime.spec.driver import DriverSpec
from runtime.spec.manager import ConsumerSpec, DeadLetterSpec, ManagerSpec, ObjectStoreSpec
from runtime.spec.model import AlgorithmRunner, Driver, Node, ObjectStore, Order, Source, State, Stream, Workflow
from runtime.spec.node import (
    DispatchSpec,
    HandOver,
    ModelCall,
    ModelsSpec,
    NodeSpec,
    Partitions,
    RetryPolicy,
    StateSpec,
)
from runtime.spec.selection import Conditions, SelectionSpec

TARGET = Target(
    nats_servers=("nats://one:4222", "nats://two:4222"),
    mongo_uri="sqlite:////data.db",
    influx_uri="sqlite:////points.db",
    base_path="/flows/triage",
    handler_versions={"score": "abc123"},
    environment={"API_TOKEN": "hush"},
)


def node(name: str, *sources: str, **fields: Any) -> Node:
    read = tuple(Source.parse(source) for source in sources or ("entrypoint",))
    return Node(name=name, handler=f"{name}/handler.py", sources=read, **fields)


def workflow(*nodes: Node, output: str = "", **fields: Any) -> Workflow:
    path = Path("/flows/triage/workflow.yaml")
    out = Source.parse(output or nodes[-1].name)
    return Workflow(name="triage", version="v1", nodes=nodes, output=out, folder=path.parent, path=path, **fields)


def process_of(flow: Workflow, name: str) -> Process:
    return next(process for process in plan(flow, TARGET) if process.name == name)


def settings_of(flow: Workflow, name: str) -> settings.NodeSettings:
    return settings.read_node(process_of(flow, name).environment)


def spec_of(flow: Workflow, name: str) -> NodeSpec:
    return NodeSpec.model_validate_json(settings_of(flow, name).node_spec)


def test_manager_and_writer_start_before_every_node() -> None:
    processes = plan(workflow(node("clean"), node("score", "clean", replicas=3)), TARGET)

    assert [(each.name, each.arguments, each.replicas, each.stage) for each in processes] == [
        ("krt.manager", ("manager",), 1, 0),
        ("krt.writer", ("writer",), 1, 0),
        ("clean", ("node",), 1, 1),
        ("score", ("node",), 3, 1),
    ]


def test_a_node_may_be_called_like_a_process_of_the_runtime() -> None:
    processes = plan(workflow(node("manager"), node("writer", "manager")), TARGET)

    assert len({process.name for process in processes}) == 4


def test_every_process_has_all_the_variables_that_its_kind_demands_and_no_unknown_one() -> None:
    for process in plan(workflow(node("clean"), node("score", "clean")), TARGET):
        read = getattr(settings, f"read_{process.arguments[0]}")

        assert read(process.environment).nats.servers == ("nats://one:4222", "nats://two:4222")
        assert settings.unknown_variables(process.environment) == []


def test_a_node_reads_its_sources_and_writes_its_own_subject() -> None:
    flow = workflow(node("clean"), node("score", "clean", "clean.unsure", "entrypoint"))

    found = settings_of(flow, "score")

    assert found.inputs == (
        "local_v1_triage.clean",
        "local_v1_triage.clean.unsure",
        "local_v1_triage.entrypoint",
        "local_v1_triage._redrive.score.clean",
        "local_v1_triage._redrive.score.clean.unsure",
        "local_v1_triage._redrive.score.entrypoint",
    )
    assert (found.stream, found.output) == ("local_v1_triage", "local_v1_triage.score")
    assert found.handler_file == Path("/flows/triage/score/handler.py")
    assert (found.workflow, found.version, found.node, found.runtime_id) == ("triage", "v1", "score", "local")
    assert found.configuration_buckets == {
        "project": "key-store_local_v1",
        "workflow": "key-store_local_v1_triage",
        "node": "key-store_local_v1_triage_score",
    }


def test_the_node_spec_carries_what_the_file_says() -> None:
    retry = RetryPolicy(attempts=2, never=("ValueError",))
    flow = workflow(
        node("score", retry=retry, timeout_s=None, concurrency=4, dead_letter_keep_s=None), output="score.sure"
    )

    assert spec_of(flow, "score") == NodeSpec(
        durable="score__entrypoint",
        retry=retry,
        timeout_s=None,
        concurrency=4,
        exit_channel="sure",
        error_subject="local_v1_triage.score",
        keep_dead_letters=False,
        handler_version="abc123",
        claims=ClaimsSpec(store="local_v1_triage_claims", room_bytes=1024**3),
    )


def test_only_the_output_node_answers() -> None:
    flow = workflow(node("clean"), node("score", "clean"))

    assert [spec_of(flow, name).exit_channel for name in ("clean", "score")] == [None, "main"]


def test_secrets_are_passed_on_and_shown_nowhere() -> None:
    process = process_of(workflow(node("score", secrets=("API_TOKEN",), env={"MODE": "fast"})), "score")

    assert (process.environment["API_TOKEN"], process.environment["MODE"]) == ("hush", "fast")
    assert "hush" not in repr(process) + repr(TARGET)


def test_a_node_is_told_how_to_write_to_an_influxdb_of_the_second_version() -> None:
    target = replace(
        TARGET, influx_uri="http://i:8086", influx_token="t0ken", influx_org="lab", influx_bucket="measured"
    )

    manager, writer, score = plan(workflow(node("score")), target)

    found = settings.read_node(score.environment)
    assert found.influx_uri == "http://i:8086"
    assert (found.influx_token, found.influx_org, found.influx_bucket) == ("t0ken", "lab", "measured")
    assert "t0ken" not in repr(target) + str(manager.environment) + str(writer.environment)


def test_what_is_not_said_of_influxdb_does_not_hide_the_environment() -> None:
    environment = process_of(workflow(node("score")), "score").environment

    assert [name for name in environment if name.startswith("KRT_INFLUX_")] == ["KRT_INFLUX_URI"]


def test_every_missing_secret_is_named_at_once() -> None:
    flow = workflow(node("clean", secrets=("A",)), node("score", "clean", secrets=("API_TOKEN", "B")))

    with pytest.raises(ConfigError) as raised:
        plan(flow, TARGET)

    assert str(raised.value).splitlines() == [
        'node "clean" needs the secret A, which is not set: export A before the start',
        'node "score" needs the secret B, which is not set: export B before the start',
    ]


def test_a_runtime_id_that_is_no_name_is_refused() -> None:
    target = Target(nats_servers=("n",), mongo_uri="m", influx_uri="i", base_path="b", runtime_id="my_laptop")

    with pytest.raises(ConfigError, match='"my_laptop" is no runtime id'):
        plan(workflow(node("a")), target)


def test_the_manager_is_told_all_that_the_workflow_has_on_nats() -> None:
    flow = workflow(
        node("clean", dead_letter_keep_s=60, retry=RetryPolicy(attempts=1)),
        node("score", "clean", dead_letter_keep_s=90, config={"threshold": "0.7"}, retry=RetryPolicy(attempts=1)),
        stream=Stream(keep_s=30, max_bytes=5000, storage="memory", replicas=3),
        config={"mode": "fast"},
    )

    spec = ManagerSpec.model_validate_json(process_of(flow, "krt.manager").environment["KRT_MANAGER_SPEC"])

    assert spec == ManagerSpec(
        stream="local_v1_triage",
        subjects=("local_v1_triage.>",),
        storage="memory",
        replicas=3,
        max_bytes=5000,
        keep_s=30,
        duplicate_window_s=120,
        consumers=(
            ConsumerSpec(
                durable="clean__entrypoint",
                filter_subjects=("local_v1_triage.entrypoint", "local_v1_triage._redrive.clean.entrypoint"),
            ),
            ConsumerSpec(
                durable="score__clean",
                filter_subjects=("local_v1_triage.clean", "local_v1_triage._redrive.score.clean"),
            ),
        ),
        dead_letters=DeadLetterSpec(stream="local_v1_triage_dlq", subjects=("local_v1_triage_dlq.>",), keep_s=90),
        buckets={
            "attempts_local_v1_triage": {},
            "key-store_local_v1": {},
            "key-store_local_v1_triage": {"mode": "fast"},
            "key-store_local_v1_triage_clean": {},
            "key-store_local_v1_triage_score": {"threshold": "0.7"},
        },
        applied_bucket="applied_local_v1_triage",
        object_stores=(
            ObjectStoreSpec(name="local_v1_triage_claims", keep_s=0, max_bytes=5000),
            ObjectStoreSpec(name="local_v1_triage_dlq_claims", keep_s=90, max_bytes=0),
        ),
        claims=ClaimsSpec(store="local_v1_triage_claims", room_bytes=2500),
    )


def test_a_node_is_told_its_object_store_and_the_manager_all_of_them() -> None:
    flow = workflow(
        node("clean"),
        node("ocr", "clean", object_store="pages"),
        node("label", "ocr", object_store="weights"),
        objects={
            "pages": ObjectStore(keep_s=60, max_bytes=5000),
            "weights": ObjectStore(scope="project"),
        },
    )

    spec = manager_spec(flow, "local")

    stores = [settings_of(flow, name).object_store for name in ("clean", "ocr", "label")]
    assert stores == ["", "local_v1_triage_pages", "local_v1_weights"]
    assert spec.object_stores[:2] == (
        ObjectStoreSpec(name="local_v1_triage_pages", keep_s=60, max_bytes=5000),
        ObjectStoreSpec(name="local_v1_weights", keep_s=0, max_bytes=1024**3),
    )


def test_without_a_node_that_keeps_dead_letters_there_is_no_stream_for_them() -> None:
    assert manager_spec(workflow(node("a", dead_letter_keep_s=None)), "local").dead_letters is None


def test_the_stream_takes_batches_only_for_a_node_that_wants_them() -> None:
    plain, atomic = workflow(node("a"), node("b", "a")), workflow(node("a"), node("b", "a", atomic=True))

    assert [manager_spec(flow, "local").atomic for flow in (plain, atomic)] == [False, True]
    assert [spec_of(atomic, name).atomic for name in ("a", "b")] == [False, True]


def test_conditions_are_told_to_their_node_and_those_of_all_nodes_to_the_manager() -> None:
    conditions = Conditions(headers={"kind": ("scan",)}, fields={"page": (1, None)})
    flow = workflow(node("clean"), node("ocr", "clean", when={"clean": conditions}), node("audit", "clean"))

    told = {"local_v1_triage.clean": conditions}
    assert [spec_of(flow, name).when for name in ("clean", "ocr", "audit")] == [{}, told, {}]
    assert manager_spec(flow, "local").selection == SelectionSpec(nodes={"ocr": told})
    assert manager_spec(workflow(node("clean")), "local").selection is None


def test_the_version_of_a_handler_changes_with_its_file_alone(tmp_path: Path) -> None:
    flow = workflow(node("a"), node("b", "a")).model_copy(update={"folder": tmp_path})
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "handler.py").write_bytes(b"one")

    first, again = handler_versions(flow), handler_versions(flow)
    (tmp_path / "a" / "handler.py").write_bytes(b"two")

    assert first == again == {"a": hashlib.sha256(b"one").hexdigest()[:12], "b": ""}
    assert handler_versions(flow)["a"] != first["a"]


@pytest.mark.parametrize(
    ("nodes", "output", "expected"),
    [
        pytest.param({"a": [], "b": ["a"]}, "b", "a", id="the plain output is read by the output node"),
        pytest.param({"a": [], "b": ["a"], "c": ["b"]}, "c", "a", id="and by one that leads there"),
        pytest.param({"a": [], "b": ["a.x"]}, "b", "a.x", id="only a channel leads there"),
        pytest.param({"a": [], "b": ["a.y", "a.x"]}, "b", "a.x", id="the first of two channels"),
        pytest.param({"a": [], "b": ["a", "a.x"]}, "b", "a", id="the plain output comes before channels"),
        pytest.param({"a": [], "b": ["a"], "c": ["a.x"]}, "c", "a.x", id="the plain output leads elsewhere"),
        pytest.param({"a": [], "b": ["a"], "c": ["a.x"], "d": ["b"]}, "c", "a.x", id="and far elsewhere"),
        pytest.param({"a": [], "b": ["a.x"], "c": ["b.y"]}, "c", "a.x", id="channel after channel"),
        pytest.param({"a": []}, "a", "a", id="the output node itself"),
        pytest.param({"a": [], "b": ["a.x"]}, "a.y", "a", id="the output node, whose output is a channel"),
        pytest.param({"b": [], "a": ["b.side"]}, "b", "a", id="nothing leads there"),
    ],
)
def test_errors_go_where_the_output_node_is_reached(nodes: dict[str, list[str]], output: str, expected: str) -> None:
    flow = workflow(*(node(name, *sources) for name, sources in nodes.items()), output=output)

    assert str(error_source(flow, flow.node("a"))) == expected


def test_the_error_subject_is_that_of_the_source() -> None:
    flow = workflow(node("clean"), node("score", "clean.sure"))

    assert spec_of(flow, "clean").error_subject == "local_v1_triage.clean.sure"


def test_the_plan_of_the_same_workflow_is_the_same() -> None:
    flow = workflow(node("clean"), node("score", "clean"))

    assert plan(flow, TARGET) == plan(flow, TARGET)
    assert json.loads(process_of(flow, "krt.manager").environment["KRT_MANAGER_SPEC"])["stream"] == "local_v1_triage"


def test_an_ordered_node_has_a_consumer_for_each_partition_of_its_inputs() -> None:
    flow = workflow(
        node("clean", order=Order(partitions=2)), node("score", "clean", "clean.sure", order=Order(partitions=2))
    )

    consumers = manager_spec(flow, "local").consumers

    s = "local_v1_triage"
    assert [(each.durable, each.max_ack_pending) for each in consumers] == [
        ("clean_p0__entrypoint", 1),
        ("clean_p1__entrypoint", 1),
        ("score_p0__clean__clean_sure", 1),
        ("score_p1__clean__clean_sure", 1),
    ]
    assert consumers[3].filter_subjects == (
        f"{s}.clean.main.p1",
        f"{s}.clean.sure.p1",
        f"{s}._redrive.score.clean.main.p1",
        f"{s}._redrive.score.clean.sure.p1",
    )
    # The first one also reads what a sender without partitions has published.
    assert set(consumers[0].filter_subjects) == {
        f"{s}.entrypoint",
        f"{s}.entrypoint.main.p0",
        f"{s}._redrive.clean.entrypoint",
        f"{s}._redrive.clean.entrypoint.main.p0",
    }


def test_an_unordered_node_reads_all_partitions_of_an_output_together() -> None:
    flow = workflow(node("clean"), node("score", "clean", order=Order(partitions=2)), node("audit", "clean"))

    assert settings_of(flow, "audit").inputs == (
        "local_v1_triage.clean",
        "local_v1_triage.clean.main.*",
        "local_v1_triage._redrive.audit.clean",
        "local_v1_triage._redrive.audit.clean.main.*",
    )
    assert manager_spec(flow, "local").consumers[-1].filter_subjects == settings_of(flow, "audit").inputs


def test_outputs_and_entrypoint_are_partitioned_for_their_ordered_readers() -> None:
    flow = workflow(
        node("clean", state=State(partitions=4, ttl_s=60)),
        node("score", "clean", "clean.sure", order=Order(partitions=8)),
        node("audit", "clean.sure", state=State(type="audit:Seen", partitions=8, ttl_s=None)),
    )

    clean, audit, manager = spec_of(flow, "clean"), spec_of(flow, "audit"), manager_spec(flow, "local")

    assert clean.partitioned == {
        "local_v1_triage.clean": Partitions(count=8, spread=True),
        "local_v1_triage.clean.sure": Partitions(count=8, spread=False),
    }
    assert (clean.partitions, audit.partitions, audit.partitioned) == (4, 8, {})
    assert audit.state == StateSpec(bucket="state_local_v1_triage_audit", type="audit:Seen")
    assert manager.entrypoint == Partitions(count=4)
    assert manager.aging_buckets == {"state_local_v1_triage_clean": 60, "state_local_v1_triage_audit": 0}


DRIVER = Driver(
    name="web",
    type="http",
    ports={"http": 8080},
    arguments={"token_env": "API_TOKEN"},
    parameters={"task_ttl": "60s"},
    timeout_s=20.0,
    env={"MODE": "fast"},
    secrets=("API_TOKEN",),
)


def test_a_driver_starts_behind_the_nodes_and_is_told_everything() -> None:
    flow = workflow(node("score"), output="score.big", drivers=(DRIVER,))

    process = plan(flow, replace(TARGET, listen="0.0.0.0"))[-1]

    told = settings.read_driver(process.environment)
    spec = DriverSpec.model_validate_json(told.spec)
    assert (process.name, process.arguments, process.stage, process.may_end) == ("krt.driver.web", ("driver",), 2, True)
    assert (told.base_path, told.nats.servers) == (Path("/flows/triage"), TARGET.nats_servers)
    assert (process.environment["MODE"], process.environment["API_TOKEN"]) == ("fast", "hush")
    assert spec == DriverSpec(
        ref="web",
        driver="http",
        workflow="triage",
        stream="local_v1_triage",
        output_subjects=("local_v1_triage.score.big", "local_v1_triage.score"),
        pid=spec.pid,
        arguments={"token_env": "API_TOKEN"},
        parameters={"task_ttl": "60s"},
        ports={"http": 8080},
        listen="0.0.0.0",
        timeout_s=20.0,
    )


def test_a_driver_keeps_its_pid_from_plan_to_plan_and_replicas_get_pids_of_their_own() -> None:
    flow = workflow(node("score"), drivers=(DRIVER, DRIVER.model_copy(update={"name": "many", "replicas": 2})))

    pids = [
        DriverSpec.model_validate_json(process.environment["KRT_DRIVER_SPEC"]).pid
        for processes in (plan(flow, TARGET), plan(flow, TARGET))
        for process in processes[-2:]
    ]

    assert pids[0] == pids[2] != ""
    assert pids[1] == pids[3] == ""


def test_a_missing_secret_of_a_driver_is_named() -> None:
    with pytest.raises(ConfigError, match=r'^driver "web" needs the secret API_TOKEN, which is not set'):
        plan(workflow(node("score"), drivers=(DRIVER,)), replace(TARGET, environment={}))


def test_a_runner_of_algorithms_starts_before_the_nodes_and_is_told_everything() -> None:
    images = AlgorithmRunner(
        name="images", adapter="algorithms/images", concurrency=2, replicas=3, isolation="process", timeout_s=1.5,
        env={"MODE": "fast"}, secrets=("API_TOKEN",),
    )  # fmt: skip
    flow = workflow(node("a"), algorithms=(images,))

    processes = {process.name: process for process in plan(flow, TARGET)}
    runner = processes["krt.algorithms.images"]
    told = settings.read_algorithms(runner.environment)

    assert (runner.arguments, runner.replicas) == (("algorithms",), 3)
    assert runner.stage < processes["a"].stage
    assert (told.adapter, told.runner, told.concurrency) == ("/flows/triage/algorithms/images", "images", 2)
    assert (told.isolation, told.timeout_s) == ("process", 1.5)
    assert told.environment == {"MODE": "fast", "API_TOKEN": "hush"}


def test_a_missing_secret_of_a_runner_is_named() -> None:
    flow = workflow(node("a"), algorithms=(AlgorithmRunner(name="images", adapter="x", secrets=("IMAGES_KEY",)),))

    with pytest.raises(ConfigError, match='runner "images" needs the secret IMAGES_KEY'):
        plan(flow, TARGET)


def test_what_a_kind_does_is_told_in_the_spec_of_the_node_and_its_consumer() -> None:
    models = ModelsSpec(cluster="game", base_class="game.Player", calls=(ModelCall(method="predict"),))
    players = Node(name="players", kind="models", sources=(Source(node="entrypoint"),), models=models)
    work = Node(name="work", kind="dispatch", sources=(Source(node="players"),), dispatch=DispatchSpec())
    flow = workflow(players, work)

    consumers = {consumer.durable: consumer.max_ack_pending for consumer in manager_spec(flow, "local").consumers}

    assert spec_of(flow, "players").models == models
    assert spec_of(flow, "work").dispatch == DispatchSpec()
    assert consumers == {"players__entrypoint": None, "work__players": 1_000_000}


def test_the_version_of_a_node_without_a_handler_is_that_of_its_functions(tmp_path: Path) -> None:
    (tmp_path / "vote.py").write_text("one")
    models = ModelsSpec(cluster="c", base_class="a.B", calls=(ModelCall(method="m"),), aggregate="vote.py:vote")
    flow = workflow(
        Node(name="a", kind="models", sources=(Source(node="entrypoint"),), models=models),
        Node(name="b", kind="dispatch", sources=(Source(node="a"),), dispatch=DispatchSpec()),
    ).model_copy(update={"folder": tmp_path})

    assert handler_versions(flow) == {"a": hashlib.sha256(b"one").hexdigest()[:12], "b": ""}


def test_a_chain_is_one_process_with_one_consumer_that_takes_what_is_redriven_to_any_of_its_nodes() -> None:
    flow = workflow(
        node("clean", env={"LEVEL": "high"}, replicas=2),
        node("score", "clean", secrets=("API_TOKEN",)),
        node("store", "score"),
        node("audit", "clean"),
        output="store",
        fuse=(("clean", "score", "store"),),
    )

    process, spec = process_of(flow, "clean"), spec_of(flow, "clean")

    stream = "local_v1_triage"
    assert [each.name for each in plan(flow, TARGET) if each.arguments == ("node",)] == ["clean", "audit"]
    assert (process.replicas, process.environment["LEVEL"], process.environment["API_TOKEN"]) == (2, "high", "hush")
    assert spec.hand_over == HandOver(subjects=(f"{stream}.clean",), stored=True)
    assert [(each.node, each.input, each.output, each.handler) for each in spec.behind] == [
        ("score", f"{stream}.clean", f"{stream}.score", "score/handler.py"),
        ("store", f"{stream}.score", f"{stream}.store", "store/handler.py"),
    ]
    assert [each.spec.hand_over for each in spec.behind] == [HandOver(subjects=(f"{stream}.score",)), HandOver()]
    assert [each.spec.fused_with for each in spec.behind] == ["clean", "clean"]
    assert spec.behind[0].spec.handler_version == "abc123"
    assert [(each.durable, each.filter_subjects) for each in manager_spec(flow, "local").consumers] == [
        (
            "clean__entrypoint",
            (
                f"{stream}.entrypoint",
                f"{stream}._redrive.clean.entrypoint",
                f"{stream}._redrive.score.clean",
                f"{stream}._redrive.store.score",
            ),
        ),
        ("audit__clean", (f"{stream}.clean", f"{stream}._redrive.audit.clean")),
    ]
