"""From a driver's spec to its process. Pure, as `plan.py` is."""

from collections.abc import Mapping, Sequence

from runtime.deploy.process import Process
from runtime.spec import names
from runtime.spec.driver import DriverSpec
from runtime.spec.model import Workflow

# Drivers start last and end first: they need the nodes, and take requests from outside.
DRIVER_STAGE = 2


def process_name(ref: str) -> str:
    """Return the name of a driver's process; the dot keeps it apart from nodes, whose names hold none."""
    return f"krt.driver.{ref}"


def output_subjects(workflow: Workflow, stream: str) -> tuple[str, ...]:
    """Return the subjects on which the workflow's answers are stored, and the ERRORs in their place."""
    node, channel = workflow.output.node, workflow.output.channel
    return tuple(dict.fromkeys((names.node_subject(stream, node, channel), names.node_subject(stream, node))))


def driver_process(
    spec: DriverSpec, *, nats_servers: Sequence[str], base_path: str = "", environment: Mapping[str, str] | None = None
) -> Process:
    """Return the process of a driver.

    base_path: folder of the workflow, from which drivers may be imported. environment: further variables, such as
    secrets, the log level or the credentials.
    """
    name = process_name(spec.ref)
    return Process(
        name=name,
        arguments=("driver",),
        environment={
            **(environment or {}),
            "KRT_NATS_SERVER": ",".join(nats_servers),
            "KRT_NATS_INBOX_PREFIX": names.inbox_prefix(spec.stream, name),
            "KRT_DRIVER_SPEC": spec.model_dump_json(),
            **({"KRT_BASE_PATH": base_path} if base_path else {}),
        },
        stage=DRIVER_STAGE,
        # Whoever asks it to stop, over NATS, does not mean to start it again.
        may_end=True,
    )
