"""What the processes of a model cluster may do on NATS, as users of a server's configuration. Pure.

| user | may |
|---|---|
| `model.<id>`, one for each model | tell of itself alone, be asked, answer; send and fetch large bodies |
| `coordinator` | see who is there, ask every model of the cluster, report it and stop it; send and fetch large bodies |
| `operator` (`krt model serve FILE`, `ls`, `stop`, …) | see who is there, stop and rename models, keep the quarantine |

A model that speaks for another, or reads what another is asked, is refused.
"""

from runtime.deploy.permissions import Permissions, new_user
from runtime.deploy.rights import calls_models, carries_bodies, makes, presence, watches, watches_presence
from runtime.models import wire
from runtime.spec import names
from runtime.spec.models_file import ModelsFile

COORDINATOR, OPERATOR = "coordinator", "operator"


def model_process(model_id: str) -> str:
    """Return the user's part of a model's name: of the folder with its credentials, too."""
    return f"{names.MODEL}.{model_id}"


def model_permissions(models_file: ModelsFile) -> list[Permissions]:
    """Return the permissions of every model of the file, and of those who use its cluster."""
    cluster = models_file.cluster
    hosts = [_host(cluster, model.id) for model in models_file.models]
    return [*hosts, _coordinator(cluster), _operator(cluster)]


def _host(cluster: str, model_id: str) -> Permissions:
    allowed = [*presence(cluster, names.MODEL, model_id), *carries_bodies(names.model_store(cluster))]
    # Every deployment and every action: a deployment has its name only when it starts.
    asked = names.model_subject(cluster, model_id, "*", ">")
    return new_user(model_process(model_id), cluster, allowed, subscribe=[asked], answers=True)


def _coordinator(cluster: str) -> Permissions:
    return new_user(COORDINATOR, cluster, calls_models(cluster))


def _operator(cluster: str) -> Permissions:
    bucket = names.quarantine_bucket(cluster)
    asks = [names.model_subject(cluster, "*", "*", action) for action in (wire.HEALTH, wire.STOP, wire.INFOS)]
    keeps = [*makes(f"KV_{bucket}"), *watches(f"KV_{bucket}"), f"$KV.{bucket}.>"]
    asked = names.fleet_subject(cluster, "*", "*")
    allowed = [*asks, asked, *keeps, *presence(cluster, names.FLEET), *watches_presence()]
    return new_user(OPERATOR, cluster, allowed, subscribe=[asked], answers=True)
