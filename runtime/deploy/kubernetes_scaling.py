"""From `replicas: {min, max, lag}` of a node to KEDA's ScaledObject, which looks at the node's consumer. Pure.

KEDA asks the monitoring port of NATS how many messages of the consumer wait or are in work, and the autoscaler that it
makes divides them by the lag: ten times the lag are ten replicas, within the range.
"""

from dataclasses import dataclass

from runtime.deploy.kubernetes_objects import Manifest, Place
from runtime.deploy.wiring import durable_of
from runtime.spec import names
from runtime.spec.model import Node
from runtime.spec.replicas import Scaling


@dataclass(frozen=True, slots=True, kw_only=True)
class LagSource:
    """Where KEDA finds the lag of a stream's consumers. endpoint: host and port of NATS's monitoring."""

    endpoint: str
    account: str
    stream: str


def scaled_object(place: Place, node: Node, scaling: Scaling, deployment: str, source: LagSource) -> Manifest:
    """Return what scales the Deployment of a node."""
    # A replica beyond the partitions would have nothing to do.
    most = min(scaling.max, node.partitions or scaling.max)
    triggers = [_trigger(durable, scaling, source) for durable in _durables(node)]
    spec = {
        "scaleTargetRef": {"name": deployment},
        "minReplicaCount": min(scaling.min, most),
        "maxReplicaCount": most,
        "triggers": triggers,
    }
    if node.partitions:
        # Each partition has a consumer, and without a formula only the longest queue of them would count.
        for number, trigger in enumerate(triggers):
            trigger["name"] = f"p{number}"
        formula = " + ".join(f"p{number}" for number in range(node.partitions))
        modifiers = {"formula": formula, "target": str(scaling.lag), "metricType": "AverageValue"}
        spec["advanced"] = {"scalingModifiers": modifiers}
    return place.manifest("ScaledObject", deployment, node.name, spec=spec)


def _trigger(durable: str, scaling: Scaling, source: LagSource) -> Manifest:
    return {
        "type": "nats-jetstream",
        "metadata": {
            "natsServerMonitoringEndpoint": source.endpoint,
            "account": source.account,
            "stream": source.stream,
            "consumer": durable,
            "lagThreshold": str(scaling.lag),
        },
    }


def _durables(node: Node) -> list[str]:
    """Return the consumer of a node, or those of its partitions."""
    durable = durable_of(node)
    if node.partitions is None:
        return [durable]
    return [names.partition_durable(durable, number) for number in range(node.partitions)]
