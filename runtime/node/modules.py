"""Loads the handlers of a whole workflow into one process, where each would have a process of its own.

A handler finds the modules of its own folder first, and two nodes may have modules of one name: `model.py` beside each
handler. So every handler is loaded as if it were alone, and what it imported from the workflow's folder is set aside.
Afterwards the folders stay importable until `close`, for what handlers import later, in `init` or while they work.
"""

import sys
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from types import ModuleType
from typing import TypeVar

from runtime.node.handler import LoadedHandler, load_handler

T = TypeVar("T")


class HandlerModules:
    """The handlers of one workflow; `close` leaves `sys.path` and `sys.modules` as they were."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._folders: list[str] = []
        self._kept: dict[str, ModuleType] = {}

    def load(self, handler: str, *, batched: bool = False) -> LoadedHandler:
        """Import one handler, its path being relative to the folder. Raises HandlerLoadError."""
        return self.alone([handler], lambda: load_handler(self._folder, handler, batched=batched))

    def alone(self, files: Sequence[str], load: Callable[[], T]) -> T:
        """Call what loads the code of one node. files: those that it loads, relative to the folder."""
        folders = [*((self._folder / file).parent for file in files), self._folder]
        own_names = {name for folder in folders for name in _module_names(folder)}
        path_before = list(sys.path)
        hidden = _take_modules(own_names)
        try:
            loaded = load()
        finally:
            sys.path[:] = path_before
            mine = _take_modules(own_names)
            sys.modules.update(hidden)
        self._remember(folders, mine)
        return loaded

    def close(self) -> None:
        """Take the workflow's modules and folders out again; repeating it is fine."""
        for name, module in self._kept.items():
            if sys.modules.get(name) is module:
                del sys.modules[name]
        for folder in self._folders:
            if folder in sys.path:
                sys.path.remove(folder)
        self._kept, self._folders = {}, []

    def _remember(self, folders: Iterable[Path], modules: dict[str, ModuleType]) -> None:
        """Make folders and modules importable by name; the first node wins a name, and the test's own modules stay."""
        for folder in dict.fromkeys(map(str, folders)):
            if folder not in sys.path:
                sys.path.insert(0, folder)
                self._folders.append(folder)
        for name, module in modules.items():
            if sys.modules.setdefault(name, module) is module:
                self._kept[name] = module


def _module_names(folder: Path) -> set[str]:
    """Return the names under which modules and packages directly in the folder can be imported, and `worker`."""
    packages = {path.parent.name for path in folder.glob("*/__init__.py")}
    # `worker` is what the loader calls a handler whose own name is taken.
    return {path.stem for path in folder.glob("*.py")} | packages | {"worker"}


def _take_modules(names: set[str]) -> dict[str, ModuleType]:
    """Remove and return the loaded modules of these names, with what lies in their packages."""
    taken = [name for name in sys.modules if name.partition(".")[0] in names]
    return {name: sys.modules.pop(name) for name in taken}
