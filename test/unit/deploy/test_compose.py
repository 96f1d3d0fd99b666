"""From a workflow to a compose file: which services there are, and what may not stand in them."""

import json
from pathlib import Path
from typing import Any

import pytest

from runtime import settings
from runtime.deploy.compose import ComposeOptions, compose_file
from runtime.errors import ConfigError
from runtime.spec.model import AlgorithmRunner, Driver, Node, Source, Workflow
from runtime.spec.resources import ProcessResources

OPTIONS = ComposeOptions(image="flows:1", folder="./flows/triage")
MONGO = "mongodb://db.lab:27017"
INFLUX = "http://points.lab:8086"


def node(name: str, *sources: str, **fields: Any) -> Node:
    read = tuple(Source.parse(source) for source in sources or ("entrypoint",))
    return Node(name=name, handler=f"{name}/handler.py", sources=read, **fields)


def workflow(*nodes: Node) -> Workflow:
    path = Path("/flows/triage/workflow.yaml")
    output = Source.parse(nodes[-1].name)
    return Workflow(name="triage", version="v1", nodes=nodes, output=output, folder=path.parent, path=path)


def services_of(flow: Workflow, **options: Any) -> dict[str, Any]:
    found: dict[str, Any] = compose_file(flow, ComposeOptions(image="flows:1", folder="./flows", **options))["services"]
    return found


def test_every_process_of_the_plan_is_a_service_beside_the_servers() -> None:
    document = compose_file(workflow(node("clean"), node("score", "clean", replicas=3)), OPTIONS)

    assert document["name"] == "triage"
    services = document["services"]
    assert list(services) == ["nats", "mongo", "influx", "krt.manager", "krt.writer", "clean", "score"]
    processes = list(services.values())[3:]
    assert [(each["command"], each.get("scale", 1)) for each in processes] == [
        (["manager"], 1),
        (["writer"], 1),
        (["node"], 1),
        (["node"], 3),
    ]
    assert {each["image"] for each in processes} == {"flows:1"}


def test_every_process_waits_for_the_servers_that_it_uses_and_starts_again_when_it_ends() -> None:
    services = services_of(workflow(node("clean")))

    used = {"krt.manager": ["nats"], "krt.writer": ["nats", "mongo"], "clean": ["nats", "mongo", "influx"]}
    for name, needed in used.items():
        assert services[name]["depends_on"] == {server: {"condition": "service_healthy"} for server in needed}
        assert services[name]["restart"] == "unless-stopped"


def test_every_server_tells_its_health_keeps_its_data_and_has_a_version() -> None:
    document = compose_file(workflow(node("clean")), OPTIONS)

    servers = {name: document["services"][name] for name in ("nats", "mongo", "influx")}
    assert document["volumes"] == {name: {} for name in servers}
    for name, server in servers.items():
        assert [mount["source"] for mount in server["volumes"]] == [name]
        assert server["healthcheck"]["test"][0] == "CMD"
        assert server["image"].partition(":")[2][:1].isdigit()


def test_only_nats_is_reached_from_outside_and_only_from_this_machine() -> None:
    services = services_of(workflow(node("clean")))

    published = {name: service["ports"] for name, service in services.items() if "ports" in service}
    assert published == {"nats": ["127.0.0.1:${KRT_NATS_PORT:-4222}:4222"]}


def test_a_container_is_killed_later_than_its_process_gives_up_by_itself() -> None:
    for service in [services_of(workflow(node("clean")))[name] for name in ("krt.manager", "krt.writer", "clean")]:
        grace_s = float(service["environment"]["KRT_SHUTDOWN_GRACE"])

        assert float(service["stop_grace_period"].removesuffix("s")) > grace_s


def test_every_process_reads_its_variables_without_a_problem() -> None:
    services = services_of(workflow(node("clean"), node("score", "clean")))

    for name in ("krt.manager", "krt.writer", "clean", "score"):
        read = getattr(settings, f"read_{services[name]['command'][0]}")
        assert read(services[name]["environment"]).nats.servers == ("nats://nats:4222",)


def test_nodes_write_with_the_token_and_into_the_bucket_that_influxdb_makes() -> None:
    services = services_of(workflow(node("clean")), runtime_id="prod")

    made = services["influx"]["environment"]
    told = services["clean"]["environment"]
    assert told["KRT_INFLUX_URI"] == "http://influx:8086"
    assert (told["KRT_INFLUX_TOKEN"], told["KRT_INFLUX_ORG"], told["KRT_INFLUX_BUCKET"]) == (
        made["DOCKER_INFLUXDB_INIT_ADMIN_TOKEN"],
        made["DOCKER_INFLUXDB_INIT_ORG"],
        made["DOCKER_INFLUXDB_INIT_BUCKET"],
    )
    assert told["KRT_INFLUX_BUCKET"] == "prod"
    assert told["KRT_INFLUX_TOKEN"].startswith("${KRT_INFLUX_TOKEN:-")
    assert "KRT_INFLUX_TOKEN" not in services["krt.writer"]["environment"]


def test_given_servers_take_the_place_of_those_of_the_file() -> None:
    flow = workflow(node("clean"))

    document = compose_file(flow, ComposeOptions(image="krt", folder=".", mongo_uri=MONGO, influx_uri=INFLUX))

    assert document["volumes"] == {"nats": {}}
    assert list(document["services"]) == ["nats", "krt.manager", "krt.writer", "clean"]
    clean = document["services"]["clean"]
    assert list(clean["depends_on"]) == ["nats"]
    assert (clean["environment"]["KRT_MONGO_URI"], clean["environment"]["KRT_INFLUX_URI"]) == (MONGO, INFLUX)
    assert clean["environment"]["KRT_INFLUX_TOKEN"] == "${KRT_INFLUX_TOKEN:-}"
    assert document["services"]["krt.writer"]["environment"]["KRT_MONGO_URI"] == MONGO


def test_a_sqlite_file_lies_on_a_volume_that_its_users_share() -> None:
    file = "sqlite:////data/data.db"

    document = compose_file(
        workflow(node("clean")), ComposeOptions(image="krt", folder="./flows", mongo_uri=file, influx_uri=file)
    )

    services = document["services"]
    assert document["volumes"] == {"nats": {}, "data": {}}
    data = {"type": "volume", "source": "data", "target": "/data"}
    folder = {"type": "bind", "source": "./flows", "target": "/workflow", "read_only": True}
    assert services["krt.writer"]["volumes"] == [data]
    assert services["clean"]["volumes"] == [folder, data]
    assert "volumes" not in services["krt.manager"]
    assert "KRT_INFLUX_TOKEN" not in services["clean"]["environment"]


def test_a_secret_is_a_reference_even_where_its_value_is_known(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("API_TOKEN", "hush")

    document = compose_file(workflow(node("clean", secrets=("API_TOKEN",)), node("score", "clean")), OPTIONS)

    reference = "${API_TOKEN:?a secret of clean}"
    assert document["services"]["clean"]["environment"]["API_TOKEN"] == reference
    assert "API_TOKEN" not in document["services"]["score"]["environment"]
    assert "hush" not in str(document)


def test_secrets_of_every_node_of_a_fused_chain_are_references() -> None:
    flow = workflow(node("clean"), node("score", "clean", secrets=("API_TOKEN",)))

    services = services_of(flow.model_copy(update={"fuse": (("clean", "score"),)}))

    assert services["clean"]["environment"]["API_TOKEN"] == "${API_TOKEN:?a secret of clean}"


def test_a_process_has_its_own_image_before_that_of_the_file() -> None:
    flow = workflow(
        node("clean"),
        node("score", "clean", image="scores:3"),
        node("ocr", "score", image="ocr:1", resources=ProcessResources(gpu=1)),
    )
    runner = AlgorithmRunner(name="images", adapter="images", image="images:2")
    flow = flow.model_copy(
        update={"drivers": (Driver(name="api", type="http", image="web:4"),), "algorithms": (runner,)}
    )

    services = services_of(flow, gpu_image="flows:cuda")

    images = {name: services[name]["image"] for name in services if name not in ("nats", "mongo", "influx")}
    assert images == {
        "krt.manager": "flows:1",
        "krt.writer": "flows:1",
        "krt.algorithms.images": "images:2",
        "clean": "flows:1",
        "score": "scores:3",
        "ocr": "ocr:1",
        "krt.driver.api": "web:4",
    }


def test_a_dollar_of_the_workflow_is_no_reference() -> None:
    flow = workflow(node("clean", env={"PRICE": "5 ${HOME}"}, config={"currency": "$"}))

    services = services_of(flow)

    assert services["clean"]["environment"]["PRICE"] == "5 $${HOME}"
    assert '"currency":"$$"' in services["krt.manager"]["environment"]["KRT_MANAGER_SPEC"]


def test_a_password_in_a_uri_is_refused_without_showing_it() -> None:
    with pytest.raises(ConfigError, match="--mongo-uri holds a password") as caught:
        services_of(workflow(node("clean")), mongo_uri="mongodb://ada:hush@mongo:27017")

    assert "hush" not in str(caught.value)


def test_a_password_of_a_uri_may_be_a_reference() -> None:
    uri = "mongodb://ada:${MONGO_PASSWORD}@mongo:27017"

    services = services_of(workflow(node("clean")), mongo_uri=uri)

    assert services["krt.writer"]["environment"]["KRT_MONGO_URI"] == uri


@pytest.mark.parametrize("option", ["mongo_uri", "influx_uri"])
@pytest.mark.parametrize("uri", ["sqlite:////elsewhere/data.db", "postgres://db"])
def test_a_uri_of_another_kind_or_place_is_refused(option: str, uri: str) -> None:
    with pytest.raises(ConfigError, match="expected"):
        services_of(workflow(node("clean")), **{option: uri})


@pytest.mark.parametrize("name", ["nats", "mongo", "influx"])
def test_a_node_may_not_be_called_like_a_server_of_the_file(name: str) -> None:
    with pytest.raises(ConfigError, match=f'node "{name}" is called like'):
        services_of(workflow(node(name)))


def test_a_node_may_be_called_like_a_server_that_the_file_has_not() -> None:
    services = services_of(workflow(node("mongo")), mongo_uri=MONGO)

    assert services["mongo"]["command"] == ["node"]


def with_drivers(*drivers: Driver) -> Workflow:
    return workflow(node("clean")).model_copy(update={"drivers": drivers})


def test_a_driver_publishes_its_ports_and_is_healthy_while_it_listens() -> None:
    driver = Driver(name="web", type="mine:Web", ports={"http": 8090, "free": 0}, secrets=("TOKEN",))

    service = services_of(with_drivers(driver))["krt.driver.web"]

    spec = json.loads(service["environment"]["KRT_DRIVER_SPEC"])
    assert service["command"] == ["driver"]
    assert service["ports"] == ["${KRT_PUBLISH_ADDRESS:-127.0.0.1}:8090:8090"]
    assert "('127.0.0.1', 8090)" in service["healthcheck"]["test"][-1]
    assert spec["listen"] == "0.0.0.0"
    assert [mount["target"] for mount in service["volumes"]] == ["/workflow"]
    assert list(service["depends_on"]) == ["nats"]
    assert service["environment"]["TOKEN"] == "${TOKEN:?a secret of krt.driver.web}"


def test_built_in_drivers_without_ports_get_known_ones() -> None:
    services = services_of(with_drivers(Driver(name="api", type="http"), Driver(name="rpc", type="grpc")))

    published = [services[f"krt.driver.{name}"]["ports"][0].rpartition(":")[2] for name in ("api", "rpc")]
    assert published == ["8080", "9000"]


def test_replicas_of_a_driver_publish_nothing() -> None:
    service = services_of(with_drivers(Driver(name="api", type="http", replicas=2)))["krt.driver.api"]

    assert "ports" not in service
    assert service["scale"] == 2
    assert "8080" in service["healthcheck"]["test"][-1]


def test_two_drivers_that_would_publish_one_port_are_refused() -> None:
    drivers = Driver(name="api", type="http"), Driver(name="web", type="http")

    with pytest.raises(ConfigError, match=r'^drivers "api" and "web" would both publish port 8080; give web another'):
        services_of(with_drivers(*drivers))
