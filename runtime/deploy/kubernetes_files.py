"""A workflow's folder as a ConfigMap, for images that do not hold it."""

import base64
import hashlib
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from runtime.deploy.kubernetes_objects import HASH_DIGITS, Manifest, Place
from runtime.errors import ConfigError

# Bytes that a ConfigMap takes, names included.
MAX_BYTES = 1024**2
COMPONENT = "files"
# What a key of a ConfigMap may not hold.
_NOT_IN_A_KEY = re.compile(r"[^-._a-zA-Z0-9]")
# Characters of the path that a key shows.
_SHOWN = 200


def read_files(folder: Path) -> dict[str, bytes]:
    """Return the files of a folder by their paths in it, without hidden ones and bytecode.

    The one function here with I/O. Raises ConfigError where they are too large for a ConfigMap.
    """
    found: dict[str, Path] = {}
    for parent, folders, files in os.walk(folder):
        folders[:] = sorted(name for name in folders if not name.startswith((".", "__pycache__")))
        for name in files:
            path = Path(parent, name)
            if not name.startswith(".") and path.is_file():
                found[path.relative_to(folder).as_posix()] = path
    size_bytes = sum(path.stat().st_size + len(name) for name, path in found.items())
    if size_bytes > MAX_BYTES:
        largest = max(found, key=lambda name: found[name].stat().st_size)
        raise ConfigError(
            f"--files: {folder} holds {size_bytes:,} bytes, the largest file is {largest}, and a ConfigMap takes "
            f"{MAX_BYTES:,}; build an image with the folder in /workflow, and leave --files out"
        )
    return {name: found[name].read_bytes() for name in sorted(found)}


def files_config_map(place: Place, files: Mapping[str, bytes]) -> Manifest:
    """Return the ConfigMap. Its name is that of its content, so that an edit starts the pods anew."""
    data: dict[str, str] = {}
    binary: dict[str, str] = {}
    for key, (_, content) in zip(_keys(files), files.items(), strict=True):
        try:
            data[key] = content.decode()
        except UnicodeDecodeError:
            binary[key] = base64.b64encode(content).decode()
    digest = hashlib.sha256("\0".join([*data, *data.values(), *binary, *binary.values()]).encode()).hexdigest()
    written = {key: value for key, value in (("data", data), ("binaryData", binary)) if value}
    name = place.name(f"files-{digest[:HASH_DIGITS]}")
    return place.manifest("ConfigMap", name, COMPONENT, immutable=True, **written)


def files_volume(config_map: Manifest, files: Mapping[str, bytes]) -> dict[str, Any]:
    """Return the volume in which every file has its path again."""
    items = [{"key": key, "path": path} for key, path in zip(_keys(files), files, strict=True)]
    return {"configMap": {"name": config_map["metadata"]["name"], "items": items}}


def _keys(files: Mapping[str, bytes]) -> list[str]:
    """Return the keys, each with a number, because two paths may look the same in one: `003-score_handler.py`."""
    return [f"{number:03}-{_NOT_IN_A_KEY.sub('_', path)[-_SHOWN:]}" for number, path in enumerate(files, start=1)]
