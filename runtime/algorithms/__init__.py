"""Plug and play algorithms: functions `run_<name>` of an adapter, offered on NATS and called by name.

| want | take |
|---|---|
| to know what an adapter offers | `discover`, nothing is connected |
| to run, list and wait for algorithms | `Algorithms` |
| to serve an adapter | `python -m runtime algorithms`, which is `process.run_algorithms` |
| to see who is there | `registry.Registry` |

`Algorithms` is loaded when it is used: a worker process that imports an adapter needs no client.
"""

import importlib
from typing import TYPE_CHECKING, Any

# Not on demand: the function takes the place of the module of its name.
from runtime.algorithms.discover import Offer, discover

if TYPE_CHECKING:
    from runtime.algorithms.client import Algorithms

__all__ = ["Algorithms", "Offer", "discover"]


def __getattr__(name: str) -> Any:
    if name != "Algorithms":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return importlib.import_module("runtime.algorithms.client").Algorithms
