"""The manager's process, from its settings to its end."""

import asyncio

import pydantic

from runtime.clock import SystemClock
from runtime.deploy.manager import Manager
from runtime.deploy.service import connected, present, tell_ready, work_until
from runtime.errors import SettingsError
from runtime.settings import ManagerSettings
from runtime.spec import names
from runtime.spec.manager import ManagerSpec


async def run_manager(settings: ManagerSettings, stop: asyncio.Event) -> None:
    """Apply the workflow's topology, then look after its stream until `stop` is set.

    Raises SettingsError, DriftError, BusUnavailableError, BusClosedError.
    """
    spec = read_manager_spec(settings.spec)
    async with connected(settings.nats, f"manager of {spec.stream}") as bus:
        manager = Manager(bus, spec, SystemClock())
        await manager.apply()
        await manager.tell_placement()
        tell_ready(settings.ready_fd)
        async with present(bus, names.MANAGER, spec.stream, dict):
            await work_until(stop, bus, manager.run())


def read_manager_spec(text: str) -> ManagerSpec:
    """Return the spec of KRT_MANAGER_SPEC. Raises SettingsError with every fault."""
    try:
        return ManagerSpec.model_validate_json(text)
    except pydantic.ValidationError as error:
        faults = [f"{'.'.join(map(str, fault['loc'])) or 'its start'}: {fault['msg']}" for fault in error.errors()]
        raise SettingsError([f"the 'KRT_MANAGER_SPEC' env var is wrong at {fault}" for fault in faults]) from error
