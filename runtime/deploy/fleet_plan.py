"""From a models file to the processes of its model hosts, and from one plan to the next. Pure but for credentials.

A host's process is the same in two plans when its code, resources, hardware and limits are: then the model goes on, and
keeps its state. A name and infos are told to the running host.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from runtime.deploy.model_permissions import model_process
from runtime.deploy.process import CONFIGURATION_EXIT_CODE, Process, Readiness, RestartPolicy
from runtime.spec import names
from runtime.spec.model_host import QUARANTINED_EXIT_CODE, ModelHostSpec
from runtime.spec.models_file import RUNNING, DesiredModel, ModelsFile, Restarts

# Seconds before the first restart of a host; doubled with every further one, up to the maximum.
FIRST_DELAY_S = 1.0
MAX_DELAY_S = 60.0

_SPEC = "KRT_MODEL_SPEC"


@dataclass(frozen=True, slots=True, kw_only=True)
class FleetTarget:
    """What hosts are told of their surroundings.

    credentials: folder that `krt permissions` made, or any other, which holds for all; None for none.
    """

    nats_servers: Sequence[str]
    credentials: Path | None = None
    log_level: str = "INFO"


def host_processes(
    models_file: ModelsFile, digests: Mapping[str, str], quarantined: Collection[tuple[str, str]], target: FleetTarget
) -> list[Process]:
    """Return the processes that shall run. digests: by model. quarantined: pairs of a model and a digest."""
    return [
        _host_process(models_file.cluster, model, digests[model.id], target)
        for model in models_file.models
        if model.desired == RUNNING and (model.id, digests[model.id]) not in quarantined
    ]


def spec_of(process: Process) -> ModelHostSpec:
    """Return what the host of a process is told."""
    return ModelHostSpec.model_validate_json(process.environment[_SPEC])


def same_model(one: Process, other: Process) -> bool:
    """Say whether two processes of one model differ in its name and infos alone, if at all."""
    return _nameless(one) == _nameless(other)


def changes(before: Sequence[Process], after: Sequence[Process]) -> list[str]:
    """Return what changes from one plan to the next, a line for each model."""
    old, new = ({process.name: process for process in processes} for processes in (before, after))
    lines = [f"{name}: stopped" for name in old if name not in new]
    for name, process in new.items():
        if name not in old:
            lines.append(f"{name}: started")
        elif not same_model(old[name], process):
            lines.append(f"{name}: replaced")
        elif old[name] != process:
            lines.append(f"{name}: name and infos changed")
    return lines


def _host_process(cluster: str, model: DesiredModel, digest: str, target: FleetTarget) -> Process:
    spec = ModelHostSpec(
        cluster=cluster,
        model_id=model.id,
        name=model.name,
        code=model.code,
        resources=model.resources,
        class_name=model.class_name,
        infos=dict(model.infos),
        memory_bytes=model.memory_bytes or 0,
        max_restarts=model.restarts.max,
        restart_window_s=model.restarts.within_s,
        digest=digest,
    )
    user = model_process(model.id)
    return Process(
        name=model.id,
        arguments=(names.MODEL,),
        environment={
            "KRT_NATS_SERVER": ",".join(target.nats_servers),
            "KRT_NATS_INBOX_PREFIX": names.inbox_prefix(cluster, user),
            "KRT_LOG_LEVEL": target.log_level,
            _SPEC: spec.model_dump_json(),
            **_credentials(target.credentials, cluster, user),
        },
        # A model may take minutes to import; nobody waits for it here.
        ready=Readiness.STARTED,
        # Whoever asks it to stop, over NATS, does not mean to start it again.
        may_end=True,
        policy=_policy(model.restarts),
    )


def _credentials(folder: Path | None, cluster: str, user: str) -> dict[str, str]:
    if folder is None:
        return {}
    own = folder / cluster / user
    return {"KRT_NATS_CREDENTIALS": str(own if own.is_dir() else folder)}


def _policy(restarts: Restarts) -> RestartPolicy:
    return RestartPolicy(
        first_delay_s=FIRST_DELAY_S,
        max_delay_s=MAX_DELAY_S,
        # Every end counts, however long the process lived before it.
        healthy_after_s=restarts.within_s,
        crash_loop_exits=restarts.max + 1,
        crash_loop_window_s=restarts.within_s,
        gives_up=True,
        final_exit_codes=frozenset({CONFIGURATION_EXIT_CODE, QUARANTINED_EXIT_CODE}),
    )


def _nameless(process: Process) -> Process:
    spec = spec_of(process).model_copy(update={"name": "", "infos": {}})
    return replace(process, environment={**process.environment, _SPEC: spec.model_dump_json()})
