"""KRT: a streaming workflow runtime on NATS JetStream.

    from runtime import init                 # a workflow driven from Python: see `runtime.inference`

What a node's process imports is not made larger by these names: each is loaded when it is used.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from runtime.inference import InferenceProcess, Runtime, init

__all__ = ["InferenceProcess", "Runtime", "init"]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module("runtime.inference"), name)
