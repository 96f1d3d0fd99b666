"""Nodes, writers, managers, drivers and model hosts: processes that a plan starts and nobody types.

Each is configured by KRT_* variables alone. A workflow has many of them, so `runtime/__main__.py` comes here before the
command line is loaded, and each kind imports only what it needs.
"""

import asyncio
import logging
import signal
import sys
from collections.abc import Callable, Coroutine
from functools import partial
from typing import TYPE_CHECKING, Any

from runtime import errors, settings
from runtime import log as logs
from runtime.cli import exits

if TYPE_CHECKING:
    import typer

log = logging.getLogger(__name__)

KINDS = ("node", "writer", "manager", "algorithms", "driver", "model")
# `krt driver` and `krt model` are groups of commands; the processes are `python -m runtime driver` and so on alone.
COMMANDS = KINDS[:3]

# Runs until the event is set; None is the exit code 0.
Run = Callable[[asyncio.Event], Coroutine[Any, Any, int | None]]


def register(app: "typer.Typer") -> None:
    """Add one hidden command for each kind, for `krt node` to work like `python -m runtime node`."""
    for kind in COMMANDS:
        app.command(kind, hidden=True, help=f"Run the {kind} that the KRT_* variables describe.")(_command(kind))


def run(kind: str) -> int:
    """Run a process until it is asked to stop (SIGTERM, SIGINT), and return its exit code.

    A second signal ends it without order. A wrong configuration, which a restart cannot help, is exits.CONFIG.
    """
    try:
        log_settings, main = _prepare(kind)
    except errors.SettingsError as error:
        print(error, file=sys.stderr)
        return exits.CONFIG
    return keep(log_settings, main)


def keep(log_settings: settings.LogSettings, main: Run) -> int:
    """Run what a process does, with its log and its signals, until it ends; return its exit code."""
    logs.configure(level=log_settings.level, log_format=log_settings.format, file=log_settings.file)
    for sentence in settings.unknown_variables():
        log.warning("%s", sentence, extra={"action": "unknown-variable"})
    with asyncio.Runner(loop_factory=_loop_factory()) as runner:
        return runner.run(_until_signalled(main))


def _command(kind: str) -> Callable[[], None]:
    def command() -> None:
        sys.exit(run(kind))

    return command


def _prepare(kind: str) -> tuple[settings.LogSettings, Run]:
    """Read the settings, and only then import what runs. Raises SettingsError."""
    if kind == "node":
        node = settings.read_node()
        from runtime.node.run import run_node

        return node.log, partial(run_node, node)
    if kind == "writer":
        writer = settings.read_writer()
        from runtime.deploy.writer_service import run_writer

        return writer.log, partial(run_writer, writer)
    if kind == "driver":
        driver = settings.read_driver()
        if not driver.spec:
            from runtime.drivers.grpc.kre import run_entrypoint

            return driver.log, partial(run_entrypoint, driver)
        from runtime.drivers.process import run_driver

        return driver.log, partial(run_driver, driver)
    if kind == "model":
        model = settings.read_model_host()
        from runtime.models.host import run_model_host

        return model.log, partial(run_model_host, model)
    if kind == "algorithms":
        algorithms = settings.read_algorithms()
        from runtime.algorithms.process import run_algorithms

        return algorithms.log, partial(run_algorithms, algorithms)
    manager = settings.read_manager()
    from runtime.deploy.manager_service import run_manager

    return manager.log, partial(run_manager, manager)


async def _until_signalled(main: Run) -> int:
    """Run the process with its signals; every failure becomes one log line and an exit code."""
    stop = asyncio.Event()
    working = asyncio.create_task(_guarded(main, stop), name="process")

    def on_signal() -> None:
        if stop.is_set():
            working.cancel()
        stop.set()

    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, on_signal)
    await asyncio.wait([working])
    return exits.INTERRUPTED if working.cancelled() else working.result()


async def _guarded(main: Run, stop: asyncio.Event) -> int:
    try:
        return await main(stop) or exits.OK
    except (errors.ConfigError, errors.DriftError, errors.AccessError) as error:
        log.error("%s", error, extra={"action": "refused"})
        return exits.CONFIG
    except errors.KrtError as error:
        log.error("%s", error, extra={"action": "failed"})
    except Exception:  # the edge of the process: say what nobody expected, and end
        log.exception("the process has failed", extra={"action": "failed"})
    return exits.FAILED


def _loop_factory() -> Callable[[], asyncio.AbstractEventLoop] | None:
    try:
        import uvloop
    except ImportError:  # not made for Windows
        return None
    new_loop: Callable[[], asyncio.AbstractEventLoop] = uvloop.new_event_loop
    return new_loop
