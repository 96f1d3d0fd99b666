"""What the drivers of a workflow have in a compose file beyond other processes: ports that others reach. Pure."""

from typing import Any

from runtime.errors import ConfigError
from runtime.spec.model import Driver, Workflow

# The address on which a container listens; nobody but its network reaches it.
ALL_ADDRESSES = "0.0.0.0"

# Port numbers of built-in drivers whose ports the file does not give: a free one could not be published.
DEFAULT_PORTS = {"http": {"http": 8080}, "grpc": {"grpc": 9000}}

# Where ports are published, and what services are said to be reached at: this machine, unless a variable says more.
PUBLISH_ON = "${KRT_PUBLISH_ADDRESS:-127.0.0.1}"
ADVERTISED = "${KRT_ADVERTISE_ADDRESS:-localhost}"


def with_ports(workflow: Workflow) -> Workflow:
    """Return the workflow with a number for every port that is known. Raises ConfigError for one that two publish."""
    drivers = tuple(
        driver.model_copy(update={"ports": {**DEFAULT_PORTS.get(driver.type, {}), **_fixed(driver)}})
        for driver in workflow.drivers
    )
    publishers: dict[int, str] = {}
    for driver in drivers:
        for number in published_ports(driver):
            if number in publishers:
                raise ConfigError(
                    f'drivers "{publishers[number]}" and "{driver.name}" would both publish port {number}; '
                    f"give {driver.name} another one: ports: {{{next(iter(driver.ports))}: {number + 1}}}"
                )
            publishers[number] = driver.name
    return workflow.model_copy(update={"drivers": drivers})


def published_ports(driver: Driver) -> list[int]:
    """Return the ports that can be reached from outside: replicas cannot share one."""
    return list(_fixed(driver).values()) if driver.replicas == 1 else []


def driver_keys(driver: Driver) -> dict[str, Any]:
    """Return the keys of the driver's service: published ports, and a check that it listens on all of its ports."""
    keys: dict[str, Any] = {}
    if published := published_ports(driver):
        keys["ports"] = [f"{PUBLISH_ON}:{number}:{number}" for number in published]
    if ports := list(_fixed(driver).values()):
        connect = "; ".join(f"socket.create_connection(('127.0.0.1', {number}), 2).close()" for number in ports)
        keys["healthcheck"] = {
            "test": ["CMD", "python", "-c", f"import socket; {connect}"],
            "interval": "10s",
            "timeout": "5s",
            "start_period": "60s",
        }
    return keys


def _fixed(driver: Driver) -> dict[str, int]:
    return {name: number for name, number in driver.ports.items() if number}
