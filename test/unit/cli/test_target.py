"""How a command finds the workflow that it was told."""

import dataclasses
import os
import subprocess
import sys
from pathlib import Path

import pytest

from runtime.cli import target
from runtime.cli.run_file import LastRun, RunFile, RunWorkflow
from runtime.errors import ConfigError


def write_run(place: Path, folder: Path, *, name: str = "hello", pid: int | None = None) -> None:
    workflow = RunWorkflow(stream=f"local_dev_{name}", folder=str(folder), runtime="local", version="dev", nodes={})
    RunFile(nats="nats://127.0.0.1:1", pid=pid or os.getpid(), workflows={name: workflow}).write(place)


def write_last(place: Path, folder: Path, *names: str) -> Path:
    """Leave what runs of some workflows do, the last one at the end; returns the store, which is made."""
    (place / ".krt" / "nats").mkdir(parents=True)
    for name in names:
        workflow = RunWorkflow(stream=f"local_dev_{name}", folder=str(folder), runtime="local", version="dev", nodes={})
        LastRun(store=".krt/nats", workflows={name: workflow}).write(place)
    return place / ".krt" / "nats"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A workflow's folder, inside the folder where `krt run` was started."""
    folder = tmp_path / "flows" / "hello"
    folder.mkdir(parents=True)
    (folder / "workflow.yaml").touch()
    return folder


def test_a_workflow_is_found_by_name_folder_and_file_from_the_folder_of_the_run_and_below(
    tmp_path: Path, folder: Path
) -> None:
    write_run(tmp_path, folder)

    for start in (tmp_path, folder):
        for text in ("hello", str(folder), str(folder / "workflow.yaml")):
            found = target.find(text, start=start)
            assert (found.name, found.stream, found.place) == ("hello", "local_dev_hello", tmp_path)


def test_a_run_in_the_workflows_own_folder_is_found_from_anywhere(tmp_path: Path, folder: Path) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    write_run(folder, folder)

    assert target.find(str(folder), start=elsewhere).place == folder


def test_the_options_win_and_need_no_run(tmp_path: Path) -> None:
    found = target.find("hello", nats="nats://host:1", stream="s", start=tmp_path)

    assert found == target.Target(name="hello", nats="nats://host:1", stream="s")
    assert target.find_all(nats="nats://host:1", stream="s") == [dataclasses.replace(found, name="s")]


def test_one_option_without_the_other_is_refused() -> None:
    with pytest.raises(ConfigError, match="--nats and --stream together"):
        target.find("hello", nats="nats://host:1")


def test_a_workflow_that_does_not_run_is_told_with_the_remedy(tmp_path: Path, folder: Path) -> None:
    write_run(tmp_path, folder)

    with pytest.raises(target.NotRunningError, match=r'no workflow "other" runs here: start it with `krt run DIR`'):
        target.find("other", start=tmp_path)


def test_without_a_run_there_is_no_workflow(tmp_path: Path) -> None:
    with pytest.raises(target.NotRunningError, match="no workflow runs here"):
        target.find_all(start=tmp_path)


def test_a_run_whose_process_is_gone_has_ended(tmp_path: Path, folder: Path) -> None:
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    write_run(tmp_path, folder, pid=ended.pid)

    with pytest.raises(target.NotRunningError, match=f"process {ended.pid} is gone"):
        target.find("hello", start=tmp_path)


def test_all_workflows_of_the_nearest_run_are_found(tmp_path: Path, folder: Path) -> None:
    write_run(tmp_path, folder)

    assert [each.name for each in target.find_all(start=folder)] == ["hello"]


def test_what_a_run_has_left_is_found_like_a_live_one_where_that_will_do(tmp_path: Path, folder: Path) -> None:
    store = write_last(tmp_path, folder, "hello")

    for text in ("hello", str(folder), str(folder / "workflow.yaml")):
        found = target.find(text, start=folder, ended=True)
        assert (found.name, found.stream, found.nats, found.store) == ("hello", "local_dev_hello", "", store)
    with pytest.raises(target.NotRunningError, match='no workflow "hello" runs here'):
        target.find("hello", start=folder)


def test_of_several_that_have_ended_the_last_one_is_taken_and_each_has_its_name(tmp_path: Path, folder: Path) -> None:
    write_last(tmp_path, folder, "one", "two", "three", "one")

    assert [each.name for each in target.find_all(start=folder, ended=True)] == ["one"]
    assert target.find("two", start=folder, ended=True).stream == "local_dev_two"


def test_a_live_run_comes_before_a_nearer_one_that_has_ended(tmp_path: Path, folder: Path) -> None:
    write_last(folder, folder, "hello")
    write_run(tmp_path, folder)

    for found in (target.find("hello", start=folder, ended=True), *target.find_all(start=folder, ended=True)):
        assert (found.place, found.store) == (tmp_path, None)


def test_a_run_that_was_killed_is_taken_for_one_that_has_ended(tmp_path: Path, folder: Path) -> None:
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    write_run(tmp_path, folder, pid=ended.pid)
    store = write_last(tmp_path, folder, "hello")

    assert target.find("hello", start=tmp_path, ended=True).store == store


def test_a_store_that_is_gone_is_named_with_the_remedy(tmp_path: Path, folder: Path) -> None:
    store = write_last(tmp_path, folder, "hello")
    store.rmdir()

    with pytest.raises(target.NotRunningError, match=rf"its store {store} is gone: start it with `krt run DIR`"):
        target.find("hello", start=tmp_path, ended=True)
