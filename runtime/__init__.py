"""KRT: a streaming workflow runtime on NATS JetStream.

    from runtime import init                 # a workflow driven from Python: see `runtime.inference`
    from runtime import File                 # bytes with a content type, which handlers take and return

What a node's process imports is not made larger by these names: each is loaded when it is used.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from runtime.inference import InferenceProcess, Runtime, init
    from runtime.payload_files import File

__all__ = ["File", "InferenceProcess", "Runtime", "init"]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    home = "runtime.payload_files" if name == "File" else "runtime.inference"
    return getattr(importlib.import_module(home), name)
