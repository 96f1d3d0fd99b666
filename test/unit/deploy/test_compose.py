"""From a workflow to a compose file: which services there are, and what may not stand in them."""

from pathlib import Path
from typing import Any

import pytest

from runtime import settings
from runtime.deploy.compose import ComposeOptions, compose_file
from runtime.errors import ConfigError
from runtime.spec.model import Node, Source, Workflow

OPTIONS = ComposeOptions(image="flows:1", folder="./flows/triage")
MONGO = "mongodb://mongo:27017"
INFLUX = "http://influx:8086"


def node(name: str, *sources: str, **fields: Any) -> Node:
    read = tuple(Source.parse(source) for source in sources or ("entrypoint",))
    return Node(name=name, handler=f"{name}/handler.py", sources=read, **fields)


def workflow(*nodes: Node) -> Workflow:
    path = Path("/flows/triage/workflow.yaml")
    output = Source.parse(nodes[-1].name)
    return Workflow(name="triage", version="v1", nodes=nodes, output=output, folder=path.parent, path=path)


def services_of(flow: Workflow, **options: str) -> dict[str, Any]:
    found: dict[str, Any] = compose_file(flow, ComposeOptions(image="flows:1", folder="./flows", **options))["services"]
    return found


def test_every_process_of_the_plan_is_a_service_beside_nats() -> None:
    document = compose_file(workflow(node("clean"), node("score", "clean", replicas=3)), OPTIONS)

    assert document["name"] == "triage"
    services = document["services"]
    assert [(name, each.get("command"), each.get("scale", 1)) for name, each in services.items() if name != "nats"] == [
        ("krt.manager", ["manager"], 1),
        ("krt.writer", ["writer"], 1),
        ("clean", ["node"], 1),
        ("score", ["node"], 3),
    ]
    assert [each["image"] for name, each in services.items() if name != "nats"] == ["flows:1"] * 4


def test_every_process_waits_for_a_healthy_nats_and_starts_again_when_it_ends() -> None:
    services = services_of(workflow(node("clean")))

    assert "healthcheck" in services["nats"]
    for name in ("krt.manager", "krt.writer", "clean"):
        assert services[name]["depends_on"] == {"nats": {"condition": "service_healthy"}}
        assert services[name]["restart"] == "unless-stopped"


def test_a_container_is_killed_later_than_its_process_gives_up_by_itself() -> None:
    for service in [services_of(workflow(node("clean")))[name] for name in ("krt.manager", "krt.writer", "clean")]:
        grace_s = float(service["environment"]["KRT_SHUTDOWN_GRACE"])

        assert float(service["stop_grace_period"].removesuffix("s")) > grace_s


def test_every_process_reads_its_variables_without_a_problem() -> None:
    services = services_of(workflow(node("clean"), node("score", "clean")))

    for name in ("krt.manager", "krt.writer", "clean", "score"):
        read = getattr(settings, f"read_{services[name]['command'][0]}")
        assert read(services[name]["environment"]).nats.servers == ("nats://nats:4222",)


def test_data_lies_on_a_volume_that_writer_and_nodes_share() -> None:
    document = compose_file(workflow(node("clean")), OPTIONS)
    services = document["services"]

    assert document["volumes"] == {"nats": {}, "data": {}}
    data = {"type": "volume", "source": "data", "target": "/data"}
    folder = {"type": "bind", "source": "./flows/triage", "target": "/workflow", "read_only": True}
    assert services["krt.writer"]["volumes"] == [data]
    assert services["clean"]["volumes"] == [folder, data]
    assert "volumes" not in services["krt.manager"]
    assert services["clean"]["environment"]["KRT_MONGO_URI"] == "sqlite:////data/data.db"


def test_given_servers_take_the_place_of_the_file() -> None:
    flow = workflow(node("clean"))

    document = compose_file(flow, ComposeOptions(image="krt", folder=".", mongo_uri=MONGO, influx_uri=INFLUX))

    assert document["volumes"] == {"nats": {}}
    clean = document["services"]["clean"]["environment"]
    assert (clean["KRT_MONGO_URI"], clean["KRT_INFLUX_URI"]) == (MONGO, INFLUX)
    assert clean["KRT_INFLUX_TOKEN"] == "${KRT_INFLUX_TOKEN:-}"
    assert document["services"]["krt.writer"]["environment"]["KRT_MONGO_URI"] == MONGO
    assert "KRT_INFLUX_TOKEN" not in document["services"]["krt.writer"]["environment"]


def test_one_given_server_leaves_the_other_data_on_the_volume() -> None:
    document = compose_file(workflow(node("clean")), ComposeOptions(image="krt", folder=".", mongo_uri=MONGO))

    assert "data" in document["volumes"]
    assert document["services"]["clean"]["environment"]["KRT_INFLUX_URI"] == "sqlite:////data/data.db"


def test_a_secret_is_a_reference_even_where_its_value_is_known(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("API_TOKEN", "hush")

    document = compose_file(workflow(node("clean", secrets=("API_TOKEN",)), node("score", "clean")), OPTIONS)

    reference = "${API_TOKEN:?a secret of node clean}"
    assert document["services"]["clean"]["environment"]["API_TOKEN"] == reference
    assert "API_TOKEN" not in document["services"]["score"]["environment"]
    assert "hush" not in str(document)


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
def test_a_uri_of_another_kind_is_refused(option: str) -> None:
    with pytest.raises(ConfigError, match="expected"):
        services_of(workflow(node("clean")), **{option: "sqlite:////data.db"})


def test_a_node_may_not_be_called_like_the_server() -> None:
    with pytest.raises(ConfigError, match='node "nats" is called like'):
        services_of(workflow(node("nats")))
