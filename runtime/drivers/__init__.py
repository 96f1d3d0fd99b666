"""Drivers: processes that join a workflow to the outside. `base.py` holds the contracts.

    from runtime.drivers import FastAPIDriver, FastAPIClient, SourceSinkDriver, DriverNotFoundError

Each name is loaded when it is used: a driver's libraries are only in the process that needs them.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from runtime.drivers.base import (
        DriverParameters,
        DriverResources,
        DriverResourcesRequest,
        DriverState,
        PipelineDriver,
        RestrictedInferenceProcess,
    )
    from runtime.drivers.fastapi_client import FastAPIClient, FastAPIClientError
    from runtime.drivers.fastapi_driver import FastAPIDriver
    from runtime.drivers.grpc_driver import GRPCDriver
    from runtime.drivers.process import PipelineDriverProcess
    from runtime.drivers.source_sink import SourceSinkDriver
    from runtime.errors import (
        DriverError,
        DriverExistsError,
        DriverNotFoundError,
        DriverStartError,
        InvalidParametersError,
        PredictionError,
    )

# Module -> names of it.
_MODULES = {
    "runtime.drivers.base": (
        "DriverParameters",
        "DriverResources",
        "DriverResourcesRequest",
        "DriverState",
        "PipelineDriver",
        "RestrictedInferenceProcess",
    ),
    "runtime.drivers.fastapi_client": ("FastAPIClient", "FastAPIClientError"),
    "runtime.drivers.fastapi_driver": ("FastAPIDriver",),
    "runtime.drivers.grpc_driver": ("GRPCDriver",),
    "runtime.drivers.process": ("PipelineDriverProcess",),
    "runtime.drivers.source_sink": ("SourceSinkDriver",),
    "runtime.errors": (
        "DriverError",
        "DriverExistsError",
        "DriverNotFoundError",
        "DriverStartError",
        "InvalidParametersError",
        "PredictionError",
    ),
}
_MODULE_OF = {name: module for module, names in _MODULES.items() for name in names}

__all__ = [
    "DriverError",
    "DriverExistsError",
    "DriverNotFoundError",
    "DriverParameters",
    "DriverResources",
    "DriverResourcesRequest",
    "DriverStartError",
    "DriverState",
    "FastAPIClient",
    "FastAPIClientError",
    "FastAPIDriver",
    "GRPCDriver",
    "InvalidParametersError",
    "PipelineDriver",
    "PipelineDriverProcess",
    "PredictionError",
    "RestrictedInferenceProcess",
    "SourceSinkDriver",
]


def __getattr__(name: str) -> Any:
    if name not in _MODULE_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_MODULE_OF[name]), name)
