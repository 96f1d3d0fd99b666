"""Imports every module of the runtime, so that an image has the bytecode of what its processes use, and no other."""

import importlib
import pkgutil
from contextlib import suppress

import runtime
from runtime.errors import ConfigError


def modules() -> list[str]:
    """Return the runtime's modules, but the one that is a program."""
    found = (module.name for module in pkgutil.walk_packages(runtime.__path__, "runtime."))
    return [name for name in found if not name.endswith(".__main__")]


if __name__ == "__main__":
    for name in modules():
        # What needs an extra that images do not have says so when it is imported; by then it is compiled.
        with suppress(ConfigError):
            importlib.import_module(name)
