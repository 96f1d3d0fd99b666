"""What the drivers of a workflow have in a compose file beyond other processes: ports that others reach. Pure."""

from typing import Any

from runtime.deploy.drivers import known_ports
from runtime.errors import ConfigError
from runtime.spec.model import Driver, Workflow

# Where ports are published, and what services are said to be reached at: this machine, unless a variable says more.
PUBLISH_ON = "${KRT_PUBLISH_ADDRESS:-127.0.0.1}"
ADVERTISED = "${KRT_ADVERTISE_ADDRESS:-localhost}"


def check_published_ports(workflow: Workflow) -> None:
    """Raise ConfigError for a port that two drivers publish."""
    publishers: dict[int, str] = {}
    for driver in workflow.drivers:
        for number in published_ports(driver):
            if number in publishers:
                raise ConfigError(
                    f'drivers "{publishers[number]}" and "{driver.name}" would both publish port {number}; '
                    f"give {driver.name} another one: ports: {{{next(iter(driver.ports))}: {number + 1}}}"
                )
            publishers[number] = driver.name


def published_ports(driver: Driver) -> list[int]:
    """Return the ports that can be reached from outside: replicas cannot share one."""
    return list(known_ports(driver).values()) if driver.replicas == 1 else []


def driver_keys(driver: Driver) -> dict[str, Any]:
    """Return the keys of the driver's service: published ports, and a check that it listens on all of its ports."""
    keys: dict[str, Any] = {}
    if published := published_ports(driver):
        keys["ports"] = [f"{PUBLISH_ON}:{number}:{number}" for number in published]
    if ports := list(known_ports(driver).values()):
        connect = "; ".join(f"socket.create_connection(('127.0.0.1', {number}), 2).close()" for number in ports)
        keys["healthcheck"] = {
            "test": ["CMD", "python", "-c", f"import socket; {connect}"],
            "interval": "10s",
            "timeout": "5s",
            "start_period": "60s",
        }
    return keys
