"""Imports every module of the runtime, so that an image has the bytecode of what its processes use, and no other."""

import importlib
import pkgutil

import runtime
from runtime.errors import ConfigError

# Packages of the extras that images do not have.
LEFT_OUT = {"aiohttp", "boto3", "botocore", "numpy", "pandas", "pyarrow"}


def modules() -> list[str]:
    """Return the runtime's modules, but the one that is a program."""
    found = (module.name for module in pkgutil.walk_packages(runtime.__path__, "runtime."))
    return [name for name in found if not name.endswith(".__main__")]


def compile_module(name: str) -> None:
    """Import a module. What needs an extra that images do not have is compiled when its import fails."""
    try:
        importlib.import_module(name)
    except ConfigError:
        return
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] not in LEFT_OUT:
            raise


if __name__ == "__main__":
    for module in modules():
        compile_module(module)
