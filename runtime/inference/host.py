"""What the two kinds of runtime have in common: where a workflow and its drivers run."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

from runtime.bus.base import Bus
from runtime.drivers.control import Drivers
from runtime.drivers.inference import WorkflowView


class Host(Protocol):
    """Runs one workflow and the drivers that were added to it. To be used on one loop."""

    @property
    def bus(self) -> Bus: ...

    @property
    def drivers(self) -> Drivers: ...

    @property
    def view(self) -> WorkflowView: ...

    async def start(self) -> None:
        """Start or find the workflow; when this fails, nothing is left running.

        Raises ConfigError, HandlerLoadError, BusError.
        """
        ...

    async def stop(self) -> None:
        """End the drivers, then what else `start` has started."""
        ...

    async def add_driver(
        self, ref: str, make: Callable[..., object], args: Sequence[Any], arguments: Mapping[str, Any]
    ) -> str:
        """Start a driver and return its pid; it is listed, and runs, has finished or has failed, when this returns.

        Raises DriverStartError for a callable that cannot be taken, and when its process dies at once.
        """
        ...

    async def remove_driver(self, pid: str) -> None:
        """End a driver and take it off the list. Raises DriverNotFoundError."""
        ...
