"""Models that are called together: the coordinator's side. `runners.py` is the file to read first.

    from runtime.models import Argument, DynamicSubclassModelConcurrentRunner, Variant, VariantType, encode_data

Each name is loaded when it is used: a model host needs none of them.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from runtime.errors import CredentialsError, EncodingError, InvalidCoordinatorUsageError
    from runtime.models.cluster import ModelCluster
    from runtime.models.credentials import SecureCredentials
    from runtime.models.model_runner import DynamicSubclassModelRunner, HostHealth, ModelRunner
    from runtime.models.results import Ending, ModelPredictResult, Outcome, Reason
    from runtime.models.runners import DynamicSubclassModelConcurrentRunner, ModelConcurrentRunner
    from runtime.models.values import (
        Argument,
        KwArgument,
        Variant,
        VariantType,
        decode_data,
        detect_type,
        encode_data,
        from_variant,
        to_variant,
    )
    from runtime.models.wire import FailureCode, HostState

# Module -> names of it.
_MODULES = {
    "runtime.errors": ("CredentialsError", "EncodingError", "InvalidCoordinatorUsageError"),
    "runtime.models.cluster": ("ModelCluster",),
    "runtime.models.credentials": ("SecureCredentials",),
    "runtime.models.model_runner": ("DynamicSubclassModelRunner", "HostHealth", "ModelRunner"),
    "runtime.models.results": ("Ending", "ModelPredictResult", "Outcome", "Reason"),
    "runtime.models.runners": ("DynamicSubclassModelConcurrentRunner", "ModelConcurrentRunner"),
    "runtime.models.values": (
        "Argument",
        "KwArgument",
        "Variant",
        "VariantType",
        "decode_data",
        "detect_type",
        "encode_data",
        "from_variant",
        "to_variant",
    ),
    "runtime.models.wire": ("FailureCode", "HostState"),
}
_MODULE_OF = {name: module for module, names in _MODULES.items() for name in names}

__all__ = [
    "Argument",
    "CredentialsError",
    "DynamicSubclassModelConcurrentRunner",
    "DynamicSubclassModelRunner",
    "EncodingError",
    "Ending",
    "FailureCode",
    "HostHealth",
    "HostState",
    "InvalidCoordinatorUsageError",
    "KwArgument",
    "ModelCluster",
    "ModelConcurrentRunner",
    "ModelPredictResult",
    "ModelRunner",
    "Outcome",
    "Reason",
    "SecureCredentials",
    "Variant",
    "VariantType",
    "decode_data",
    "detect_type",
    "encode_data",
    "from_variant",
    "to_variant",
]


def __getattr__(name: str) -> Any:
    if name not in _MODULE_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_MODULE_OF[name]), name)
