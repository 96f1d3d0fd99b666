"""From a range of replicas to KEDA's ScaledObject."""

from pathlib import Path
from typing import Any

from runtime.deploy.kubernetes import KubernetesOptions, manifests
from runtime.deploy.manager_spec import manager_spec
from runtime.spec.model import Node, Order, Source, Workflow
from runtime.spec.replicas import Scaling
from test.support.kubernetes import broken_references, of_kind

SCALING = Scaling(min=2, max=8, lag=100)


def node(name: str, *sources: str, **fields: Any) -> Node:
    read = tuple(Source.parse(source) for source in sources or ("entrypoint",))
    return Node(name=name, handler=f"{name}.py", sources=read, **fields)


def flow(*nodes: Node) -> Workflow:
    path = Path("/flows/workflow.yaml")
    return Workflow(name="triage", nodes=nodes, output=Source.parse(nodes[-1].name), folder=path.parent, path=path)


def documents_of(workflow: Workflow, **options: Any) -> tuple[Any, ...]:
    return manifests(workflow, KubernetesOptions(image="flows:1", **options)).documents


def scaled(workflow: Workflow, **options: Any) -> Any:
    (found,) = of_kind(documents_of(workflow, **options), "ScaledObject").values()
    return found["spec"]


def consumers_of(workflow: Workflow) -> set[str]:
    return {consumer.durable for consumer in manager_spec(workflow, "local").consumers}


def test_a_range_is_scaled_on_what_the_consumer_of_the_node_has_not_handled() -> None:
    workflow = flow(node("clean"), node("score", "clean", replicas=2, scaling=SCALING))

    found = scaled(workflow, namespace="lab")

    assert found == {
        "scaleTargetRef": {"name": "triage-dev-score"},
        "minReplicaCount": 2,
        "maxReplicaCount": 8,
        "triggers": [
            {
                "type": "nats-jetstream",
                "metadata": {
                    "natsServerMonitoringEndpoint": "triage-dev-nats.lab.svc:8222",
                    "account": "$G",
                    "stream": "local_dev_triage",
                    "consumer": "score__clean",
                    "lagThreshold": "100",
                },
            }
        ],
    }
    # For a consumer that there is not, KEDA takes the number of all messages ever as the lag.
    assert found["triggers"][0]["metadata"]["consumer"] in consumers_of(workflow)


def test_a_scaled_deployment_leaves_its_replicas_to_keda() -> None:
    found = documents_of(flow(node("clean", replicas=2, scaling=SCALING), node("score", "clean", replicas=3)))

    replicas = {name: each["spec"].get("replicas") for name, each in of_kind(found, "Deployment").items()}
    assert (replicas["triage-dev-clean"], replicas["triage-dev-score"]) == (None, 3)
    assert broken_references(found, ["triage-dev"]) == []


def test_the_partitions_of_an_ordered_node_bound_it_and_their_lags_are_added_up() -> None:
    workflow = flow(node("score", order=Order(partitions=3), replicas=2, scaling=SCALING))

    found = scaled(workflow)

    assert (found["minReplicaCount"], found["maxReplicaCount"]) == (2, 3)
    assert {trigger["metadata"]["consumer"] for trigger in found["triggers"]} == consumers_of(workflow)
    names = [trigger["name"] for trigger in found["triggers"]]
    modifiers = {"formula": " + ".join(names), "target": "100", "metricType": "AverageValue"}
    assert found["advanced"] == {"scalingModifiers": modifiers}


def test_a_fused_chain_is_scaled_on_the_consumer_of_its_first_node() -> None:
    nodes = (node("clean", replicas=2, scaling=SCALING), node("score", "clean", replicas=2, scaling=SCALING))
    workflow = flow(*nodes).model_copy(update={"fuse": (("clean", "score"),)})

    (trigger,) = scaled(workflow)["triggers"]

    assert {trigger["metadata"]["consumer"]} == consumers_of(workflow)


def test_keda_reaches_the_monitoring_of_nats_from_its_own_namespace() -> None:
    workflow = flow(node("clean", replicas=2, scaling=SCALING))

    def asked(**options: str) -> Any:
        return scaled(workflow, **options)["triggers"][0]["metadata"]

    assert asked(nats="nats://nats:4222")["natsServerMonitoringEndpoint"] == "nats.default.svc:8222"
    assert asked(nats="tls://a.nats.lab,tls://b")["natsServerMonitoringEndpoint"] == "a.nats.lab:8222"
    told = asked(nats="nats://nats", nats_monitoring="watch.lab:80", nats_account="TEAM")
    assert (told["natsServerMonitoringEndpoint"], told["account"]) == ("watch.lab:80", "TEAM")


def test_the_monitoring_of_nats_is_open_where_keda_asks_it() -> None:
    def ingress(workflow: Workflow) -> Any:
        return of_kind(documents_of(workflow), "NetworkPolicy")["triage-dev-servers"]["spec"]["ingress"]

    assert ingress(flow(node("clean", replicas=2, scaling=SCALING)))[1:] == [{"ports": [{"port": 8222}]}]
    assert ingress(flow(node("clean")))[1:] == []
