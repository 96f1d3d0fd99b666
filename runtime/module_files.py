"""Python files that are run as modules, wherever they lie."""

import importlib.util
import sys
from pathlib import Path
from types import ModuleType


def import_file(path: Path, name: str) -> ModuleType:
    """Run a file as the module `name`; raises what it raises, SystemExit too, and ImportError for no Python file.

    It is in `sys.modules` before it runs: pickling, dataclasses with postponed annotations and spawned workers need it
    there. Nothing is left of a module that fails.
    """
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise ImportError(f"{path} is no Python file")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except BaseException:
        sys.modules.pop(name, None)
        raise
    return module
