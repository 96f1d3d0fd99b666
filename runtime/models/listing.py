"""The models of a cluster as people see them: what hosts and fleets tell of themselves, and the quarantine. Pure.

A fleet is a running `krt model serve FILE`. Its presence record tells what hosts cannot: of models that are not there.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Self

from runtime.bus.presence import ServiceRecord
from runtime.models.quarantine import Quarantined
from runtime.models.wire import HostRecord, HostState

# State of a model that is kept from being started.
QUARANTINED = "quarantined"
# State of a model whose process runs, and whose host has not told of itself yet: nobody can call it.
STARTING = "starting"


@dataclass(frozen=True, slots=True, kw_only=True)
class FleetModel:
    """A model of a fleet. state: of its process, or `quarantined`. restarts: of its host, since the fleet's start."""

    name: str
    state: str
    restarts: int = 0
    reason: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class FleetRecord:
    """One fleet. file: its models file, on `host`. models: by id. problem: why the file's last edit is not in force."""

    cluster: str
    instance: str
    host: str
    pid: int
    file: str
    models: Mapping[str, FleetModel] = field(default_factory=dict)
    problem: str = ""

    @classmethod
    def of(cls, key: str, record: ServiceRecord) -> Self:
        """Read it from a presence record and its key. Raises ValueError for one that is no fleet's."""
        _kind, cluster, instance = key.split(".")
        told = record.metadata
        try:
            models = {model_id: FleetModel(**fields) for model_id, fields in dict(told.get("models", {})).items()}
        except TypeError as error:
            raise ValueError(f"this is no record of a fleet: {error}") from error
        return cls(
            cluster=cluster,
            instance=instance,
            host=record.host,
            pid=record.pid,
            file=str(told.get("file", "")),
            models=models,
            problem=str(told.get("problem", "")),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class ListedModel:
    """One line of `krt model ls`. deployment and instance: of the host, "" and 0 where there is none."""

    id: str
    name: str
    state: str
    deployment: str = ""
    instance: int = 0
    restarts: int = 0
    reason: str = ""
    host: str = ""
    pid: int | None = None
    infos: Mapping[str, Any] = field(default_factory=dict)


def listed(
    hosts: Iterable[HostRecord], fleets: Sequence[FleetRecord], quarantined: Iterable[Quarantined]
) -> list[ListedModel]:
    """Return every model once for each of its hosts, or once if it has none; by id, then by start."""
    of_fleets = {model_id: model for fleet in fleets for model_id, model in fleet.models.items()}
    present = sorted(hosts, key=lambda host: (host.model_id, host.started_ms))
    found = [_of_host(host, of_fleets.get(host.model_id)) for host in present]
    seen = {host.model_id for host in present}
    found += [_of_fleet(model_id, model) for model_id, model in of_fleets.items() if model_id not in seen]
    seen |= of_fleets.keys()
    # Of no fleet that runs, or of one whose code was corrected long ago.
    left = {each.model_id: each for each in quarantined if each.model_id not in seen}
    found += [
        ListedModel(id=model_id, name=model_id, state=QUARANTINED, reason=each.reason)
        for model_id, each in left.items()
    ]
    return sorted(found, key=lambda model: model.id)


def _of_host(host: HostRecord, of_fleet: FleetModel | None) -> ListedModel:
    return ListedModel(
        id=host.model_id,
        name=host.name,
        state=host.state,
        deployment=host.deployment,
        instance=host.instance,
        restarts=host.restarts + (of_fleet.restarts if of_fleet else 0),
        reason=host.reason,
        host=host.host,
        pid=host.pid,
        infos=host.infos,
    )


def _of_fleet(model_id: str, model: FleetModel) -> ListedModel:
    state = STARTING if model.state == HostState.RUNNING else model.state
    return ListedModel(id=model_id, name=model.name, state=state, restarts=model.restarts, reason=model.reason)
