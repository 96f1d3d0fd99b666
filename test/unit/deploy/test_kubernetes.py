"""From a workflow to Kubernetes manifests: which objects there are, and what cannot run there."""

import json
from pathlib import Path
from typing import Any

import pytest

from runtime import settings
from runtime.deploy.kubernetes import KubernetesOptions, Manifests, manifests
from runtime.errors import ConfigError
from runtime.spec.batch import ArtifactRules, BatchSpec
from runtime.spec.model import AlgorithmRunner, Driver, Node, Order, Source, Stream, Workflow
from runtime.spec.node import ModelCall, ModelsSpec
from test.support.kubernetes import (
    broken_references,
    container_of,
    of_kind,
    pod_of,
    secrets_of,
    variables_of,
    workloads,
)

MONGO = "mongodb://db.lab:27017"
INFLUX = "http://points.lab:8086"
ELSEWHERE = {"nats": "nats://nats.lab:4222", "mongo_uri": MONGO, "influx_uri": INFLUX}


def node(name: str, *sources: str, **fields: Any) -> Node:
    read = tuple(Source.parse(source) for source in sources or ("entrypoint",))
    return Node(**{"name": name, "handler": f"{name}/handler.py", "sources": read, **fields})


def workflow(*nodes: Node, **fields: Any) -> Workflow:
    path = Path("/flows/triage/workflow.yaml")
    named = {"name": "triage", "version": "v1", "output": Source.parse(nodes[-1].name), **fields}
    return Workflow(nodes=nodes, folder=path.parent, path=path, **named)


def made(flow: Workflow, **options: Any) -> Manifests:
    return manifests(flow, KubernetesOptions(image="flows:1", **options))


def deployments(flow: Workflow, **options: Any) -> dict[str, Any]:
    """Return the Deployments by the component that they run."""
    found = of_kind(made(flow, **options).documents, "Deployment").values()
    return {each["metadata"]["labels"]["app.kubernetes.io/component"]: each for each in found}


def test_every_process_of_the_plan_is_a_deployment_beside_the_servers() -> None:
    flow = workflow(
        node("clean"),
        node("score", "clean", replicas=3),
        drivers=(Driver(name="api", type="http"),),
        algorithms=(AlgorithmRunner(name="images", adapter="images"),),
    )

    found = made(flow)

    processes = {
        name: (container_of(each)["args"], each["spec"]["replicas"])
        for name, each in of_kind(found.documents, "Deployment").items()
    }
    assert processes == {
        "triage-v1-krt-manager": (["manager"], 1),
        "triage-v1-krt-writer": (["writer"], 1),
        "triage-v1-krt-algorithms-images": (["algorithms"], 1),
        "triage-v1-clean": (["node"], 1),
        "triage-v1-score": (["node"], 3),
        "triage-v1-api": (["driver"], 1),
    }
    servers = ["triage-v1-nats", "triage-v1-mongo", "triage-v1-influx"]
    assert list(of_kind(found.documents, "StatefulSet")) == servers
    assert list(of_kind(found.documents, "Service")) == [*servers, "triage-v1-api"]
    assert broken_references(found.documents, [found.secret]) == []


def test_every_object_tells_its_workflow_and_is_in_the_namespace() -> None:
    found = made(workflow(node("clean")), namespace="lab")

    for document in found.documents:
        labels = document["metadata"]["labels"]
        assert document["metadata"]["namespace"] == "lab"
        assert labels["app.kubernetes.io/name"] == "triage"
        assert labels["app.kubernetes.io/instance"] == "triage-v1"
        assert labels["app.kubernetes.io/version"] == "v1"


def test_manifests_are_the_same_every_time() -> None:
    flow = workflow(node("clean", secrets=("B", "A")), drivers=(Driver(name="api", type="http"),))

    assert made(flow) == made(flow)


def test_every_process_reads_its_variables_without_a_problem() -> None:
    for each in deployments(workflow(node("clean"), node("score", "clean"))).values():
        (kind,) = container_of(each)["args"]

        read = getattr(settings, f"read_{kind}")(variables_of(each))

        assert read.nats.servers == ("nats://triage-v1-nats:4222",)


def test_servers_elsewhere_take_the_place_of_those_of_the_manifests() -> None:
    flow = workflow(node("clean"))

    found = made(flow, **ELSEWHERE)

    assert {each["kind"] for each in found.documents} == {"Deployment"}
    clean = variables_of(deployments(flow, **ELSEWHERE)["clean"])
    assert clean["KRT_NATS_SERVER"] == "nats://nats.lab:4222"
    assert (clean["KRT_MONGO_URI"], clean["KRT_INFLUX_URI"]) == (MONGO, INFLUX)
    assert found.keys == ()


def test_workflows_on_one_nats_have_writers_of_their_own() -> None:
    variables = variables_of(deployments(workflow(node("clean")))["clean"])

    assert variables["KRT_NATS_MONGO_WRITER"] == "mongo_writer_local_v1_triage"


def test_secrets_are_keys_of_one_secret_even_where_their_values_are_known(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("API_TOKEN", "hush")
    flow = workflow(node("clean", secrets=("API_TOKEN",)), node("score", "clean"))

    found = made(flow)

    own = deployments(flow)
    assert secrets_of(own["clean"])["API_TOKEN"] == "triage-v1/API_TOKEN"
    assert "API_TOKEN" not in secrets_of(own["score"])
    assert "hush" not in str(found)
    assert (found.secret, found.keys) == ("triage-v1", ("API_TOKEN", "KRT_INFLUX_PASSWORD", "KRT_INFLUX_TOKEN"))
    assert made(flow, secret="vault", **ELSEWHERE).secret == "vault"


def test_a_secret_with_a_place_of_its_own_is_taken_from_there() -> None:
    clean = node("clean", secrets=("API_TOKEN", "MODEL_KEY"), secret_places={"MODEL_KEY": "vault/model.key"})
    api = Driver(name="api", type="http", secrets=("HTTP_TOKEN",), secret_places={"HTTP_TOKEN": "web/token"})

    found = made(workflow(clean, drivers=(api,)), **ELSEWHERE)

    deployments = of_kind(found.documents, "Deployment")
    assert secrets_of(deployments["triage-v1-clean"])["MODEL_KEY"] == "vault/model.key"
    assert secrets_of(deployments["triage-v1-api"]) == {"HTTP_TOKEN": "web/token"}
    assert found.keys == ("API_TOKEN",)


def test_nodes_write_with_the_token_that_influxdb_is_made_with() -> None:
    flow = workflow(node("clean"))

    influx = of_kind(made(flow, runtime_id="prod").documents, "StatefulSet")["triage-v1-influx"]

    clean = deployments(flow, runtime_id="prod")["clean"]
    assert secrets_of(influx)["DOCKER_INFLUXDB_INIT_ADMIN_TOKEN"] == secrets_of(clean)["KRT_INFLUX_TOKEN"]
    assert variables_of(influx)["DOCKER_INFLUXDB_INIT_BUCKET"] == variables_of(clean)["KRT_INFLUX_BUCKET"] == "prod"
    assert variables_of(influx)["DOCKER_INFLUXDB_INIT_ORG"] == variables_of(clean)["KRT_INFLUX_ORG"]


def test_access_to_an_influxdb_elsewhere_is_in_the_secret_as_far_as_it_needs_any() -> None:
    clean = deployments(workflow(node("clean")), **ELSEWHERE)["clean"]

    names = ("KRT_INFLUX_TOKEN", "KRT_INFLUX_ORG", "KRT_INFLUX_BUCKET")
    assert secrets_of(clean) == {name: f"triage-v1/{name}?" for name in names}


def test_a_password_of_a_uri_is_a_reference_to_the_secret() -> None:
    uri = "mongodb://ada:${MONGO_PASSWORD}@db.lab"

    writer = deployments(workflow(node("clean")), mongo_uri=uri)["krt.writer"]

    assert variables_of(writer)["KRT_MONGO_URI"] == "mongodb://ada:$(MONGO_PASSWORD)@db.lab"
    names = [each["name"] for each in container_of(writer)["env"]]
    # Kubernetes fills in only what was defined before.
    assert names.index("MONGO_PASSWORD") < names.index("KRT_MONGO_URI")
    assert secrets_of(writer)["MONGO_PASSWORD"] == "triage-v1/MONGO_PASSWORD"


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        ({"mongo_uri": "mongodb://ada:hush@db.lab"}, "--mongo-uri holds a password"),
        ({"mongo_uri": "sqlite:////data/db"}, "expected mongodb://"),
        ({"influx_uri": "sqlite:////data/db"}, "expected http://"),
        ({"nats": "nats://ada:hush@nats.lab"}, "--nats holds a user"),
        ({"nats": "nats.lab:4222"}, "expected nats://"),
        ({"namespace": "The Lab"}, "is no namespace"),
    ],
)
def test_an_option_that_no_manifest_may_hold_is_refused_without_its_password(
    options: dict[str, str], problem: str
) -> None:
    with pytest.raises(ConfigError, match=problem) as caught:
        made(workflow(node("clean")), **options)

    assert "hush" not in str(caught.value)


def test_a_dollar_of_the_workflow_is_no_reference() -> None:
    flow = workflow(node("clean", env={"PRICE": "5 $(HOME)"}, config={"currency": "$"}))

    own = deployments(flow)

    assert variables_of(own["clean"])["PRICE"] == "5 $$(HOME)"
    assert '"currency":"$$"' in variables_of(own["krt.manager"])["KRT_MANAGER_SPEC"]


def test_credentials_are_files_of_a_secret_that_only_the_group_may_read() -> None:
    found = made(workflow(node("clean")), nats_secret="nats-users", **ELSEWHERE)

    assert broken_references(found.documents, [found.secret, "nats-users"]) == []
    for each in workloads(found.documents):
        assert variables_of(each)["KRT_NATS_CREDENTIALS"] == "/credentials"
        (volume,) = (volume for volume in pod_of(each)["volumes"] if "secret" in volume)
        assert volume["secret"] == {"secretName": "nats-users", "defaultMode": 0o440}
        assert pod_of(each)["securityContext"]["fsGroup"] == 10001


def test_a_driver_is_reached_by_its_service_and_tells_its_address() -> None:
    flow = workflow(node("clean"), drivers=(Driver(name="web", type="mine:Web", ports={"http": 8090, "free": 0}),))

    service = of_kind(made(flow, namespace="lab").documents, "Service")["triage-v1-web"]

    assert service["spec"]["ports"] == [{"name": "http", "port": 8090, "targetPort": "http"}]
    driver = deployments(flow, namespace="lab")["krt.driver.web"]
    assert variables_of(driver)["KRT_ADVERTISE_ADDRESS"] == "triage-v1-web.lab.svc"
    assert json.loads(variables_of(driver)["KRT_DRIVER_SPEC"])["listen"] == "0.0.0.0"
    assert container_of(driver)["readinessProbe"]["tcpSocket"] == {"port": "http"}


def test_replicas_of_a_driver_and_drivers_with_one_port_have_services_too() -> None:
    flow = workflow(node("clean"), drivers=(Driver(name="api", type="http", replicas=3), Driver(name="b", type="http")))

    services = of_kind(made(flow, **ELSEWHERE).documents, "Service")

    assert [service["spec"]["ports"][0]["port"] for service in services.values()] == [8080, 8080]


def test_a_port_whose_name_kubernetes_does_not_take_is_named_by_its_number() -> None:
    ports = {"Main Port": 8091, "a-name-of-many-characters": 8092, "99": 8093, "grpc-web": 8094}
    flow = workflow(node("clean"), drivers=(Driver(name="web", type="mine:Web", ports=ports),))

    found = made(flow, **ELSEWHERE)

    named = [port["name"] for port in of_kind(found.documents, "Service")["triage-v1-web"]["spec"]["ports"]]
    assert named == ["port-8091", "port-8092", "port-8093", "grpc-web"]
    assert broken_references(found.documents, [found.secret]) == []


def test_what_may_not_run_twice_is_ended_before_it_is_replaced() -> None:
    models = ModelsSpec(cluster="judges", base_class="judges.Judge", calls=(ModelCall(method="judge"),))
    opinions = node("opinions", "clean", kind="models", handler="", models=models)
    drivers = (Driver(name="api", type="http"), Driver(name="inbox", type="source-sink"))

    own = deployments(workflow(node("clean"), opinions, drivers=drivers))

    recreated = {name for name, each in own.items() if each["spec"].get("strategy") == {"type": "Recreate"}}
    assert recreated == {"krt.manager", "opinions", "krt.driver.inbox"}


def test_a_node_that_starts_containers_or_keeps_files_is_refused_with_every_reason() -> None:
    here = BatchSpec(backend="command", command=("run",), artifacts=ArtifactRules(store="file:///runs"))
    flow = workflow(
        node("flood", kind="batch", handler="", batch=BatchSpec(backend="docker", image="flood")),
        node("fire", "flood", kind="batch", handler="", batch=here),
        stream=Stream(replicas=3),
    )

    with pytest.raises(ConfigError) as caught:
        made(flow)

    problems = str(caught.value).splitlines()
    assert [problem.partition(";")[0].partition(":")[0] for problem in problems] == [
        'node "flood" starts containers, and a pod has no engine',
        'node "fire" keeps artifacts in a folder, which pods do not share',
        "the stream has 3 copies, and these manifests one NATS server",
    ]


def test_runs_of_a_command_lie_where_a_pod_can_write() -> None:
    flood = node("flood", kind="batch", handler="", batch=BatchSpec(backend="command", command=("run",)))

    own = deployments(workflow(node("clean"), flood))

    mounted = {mount["mountPath"] for mount in container_of(own["flood"])["volumeMounts"] if not mount.get("readOnly")}
    assert variables_of(own["flood"])["KRT_BATCH_DIR"] == "/tmp/batch"
    assert mounted == {"/tmp"}
    assert "KRT_BATCH_DIR" not in variables_of(own["clean"])


def test_a_stream_with_copies_goes_to_a_cluster() -> None:
    flow = workflow(node("clean"), stream=Stream(replicas=3))

    assert made(flow, nats="nats://a:4222, nats://b:4222").documents


def test_a_driver_called_like_a_server_is_refused() -> None:
    flow = workflow(node("clean"), drivers=(Driver(name="nats", type="http"),))

    with pytest.raises(ConfigError, match="two objects would be called Service triage-v1-nats"):
        made(flow)


def test_an_ordered_node_may_be_called_like_a_server() -> None:
    found = made(workflow(node("nats", order=Order(partitions=2))))

    assert broken_references(found.documents, [found.secret]) == []
