"""From a driver of the workflow to its spec, and to its process. Pure, as `plan.py` is."""

import hashlib
from collections.abc import Mapping, Sequence

from runtime.deploy.process import Process
from runtime.spec import names
from runtime.spec.driver import LOOPBACK, DriverSpec
from runtime.spec.model import Driver, Workflow
from runtime.spec.resources import ProcessResources

# Drivers start last and end first: they need the nodes, and take requests from outside.
DRIVER_STAGE = 2

# Hex digits of a driver's pid.
PID_DIGITS = 8

# The address on which a container listens; nobody but its network reaches it.
ALL_ADDRESSES = "0.0.0.0"
# Port numbers of built-in drivers whose ports the file does not give: nobody could be led to a free one.
DEFAULT_PORTS = {"http": {"http": 8080}, "grpc": {"grpc": 9000}}


def process_name(ref: str) -> str:
    """Return the name of a driver's process; the dot keeps it apart from nodes, whose names hold none."""
    return f"krt.driver.{ref}"


def output_subjects(workflow: Workflow, stream: str) -> tuple[str, ...]:
    """Return the subjects on which the workflow's answers are stored, and the ERRORs in their place."""
    node, channel = workflow.output.node, workflow.output.channel
    return tuple(dict.fromkeys((names.node_subject(stream, node, channel), names.node_subject(stream, node))))


def with_ports(workflow: Workflow) -> Workflow:
    """Return the workflow with a number for every port of a built-in driver, as containers need them."""
    drivers = tuple(
        driver.model_copy(update={"ports": {**DEFAULT_PORTS.get(driver.type, {}), **known_ports(driver)}})
        for driver in workflow.drivers
    )
    return workflow.model_copy(update={"drivers": drivers})


def known_ports(driver: Driver) -> dict[str, int]:
    """Return the ports that have a number, by name."""
    return {name: number for name, number in driver.ports.items() if number}


def driver_spec(driver: Driver, workflow: Workflow, stream: str, *, listen: str = LOOPBACK) -> DriverSpec:
    """Return the spec of a driver of the file. listen: see `DriverSpec`."""
    return DriverSpec(
        ref=driver.name,
        driver=driver.type,
        workflow=workflow.name,
        stream=stream,
        output_subjects=output_subjects(workflow, stream),
        pid=_pid(driver, stream),
        arguments=driver.arguments,
        parameters=driver.parameters,
        ports=driver.ports,
        listen=listen,
        timeout_s=driver.timeout_s,
    )


def _pid(driver: Driver, stream: str) -> str:
    """Return the pid, which outlives a crash of the process; that of one of several replicas does not."""
    if driver.replicas > 1:
        return ""
    return hashlib.sha256(f"{stream}.{driver.name}".encode()).hexdigest()[:PID_DIGITS]


def driver_process(
    spec: DriverSpec,
    *,
    nats_servers: Sequence[str],
    base_path: str = "",
    environment: Mapping[str, str] | None = None,
    replicas: int = 1,
    resources: ProcessResources | None = None,
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
        replicas=replicas,
        resources=resources or ProcessResources(),
        stage=DRIVER_STAGE,
        # Whoever asks it to stop, over NATS, does not mean to start it again.
        may_end=True,
    )
