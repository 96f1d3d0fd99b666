"""Where a cluster is that a command of `krt model` talks to."""

import os
from pathlib import Path

import pytest

from runtime.cli.fleet_place import ClusterTarget, FleetPlace, find_cluster, fleet_folder, log_files
from runtime.cli.run_file import RunFile
from runtime.cli.target import NotRunningError
from runtime.errors import ConfigError

GONE_PID = 2**22 + 1


def fleet(cluster: str, pid: int = 0) -> FleetPlace:
    return FleetPlace(
        cluster=cluster, instance="f1", nats="nats://a:1", pid=pid or os.getpid(), file="/models/models.yml"
    )


def test_the_fleet_of_this_folder_or_of_one_above_it_is_found(tmp_path: Path) -> None:
    fleet("bird-game").write(tmp_path)
    (tmp_path / "models").mkdir()

    found = find_cluster(start=tmp_path / "models")

    assert found == ClusterTarget(cluster="bird-game", nats="nats://a:1", fleet=fleet("bird-game"))


def test_one_of_several_fleets_has_to_be_chosen(tmp_path: Path) -> None:
    fleet("bird-game").write(tmp_path)
    fleet("cat-game").write(tmp_path)

    with pytest.raises(ConfigError, match="bird-game, cat-game; choose by --cluster"):
        find_cluster(start=tmp_path)
    assert find_cluster(cluster="cat-game", start=tmp_path).cluster == "cat-game"


def test_a_fleet_that_was_killed_is_none(tmp_path: Path) -> None:
    fleet("bird-game", GONE_PID).write(tmp_path)

    with pytest.raises(NotRunningError, match="no fleet runs here: start it with `krt model serve FILE`"):
        find_cluster(start=tmp_path)


def test_options_need_no_file(tmp_path: Path) -> None:
    found = find_cluster(cluster="bird-game", nats="nats://b:2", start=tmp_path)

    assert found == ClusterTarget(cluster="bird-game", nats="nats://b:2")


def test_an_address_without_a_cluster_is_half_of_it(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="--cluster"):
        find_cluster(nats="nats://b:2", start=tmp_path)


def test_a_named_cluster_is_looked_for_on_the_server_of_a_run(tmp_path: Path) -> None:
    RunFile(nats="nats://c:3", pid=os.getpid(), workflows={}).write(tmp_path)

    assert find_cluster(cluster="bird-game", start=tmp_path).nats == "nats://c:3"


def test_logs_stay_when_the_fleet_has_ended(tmp_path: Path) -> None:
    for cluster in ("bird-game", "cat-game"):
        fleet_folder(tmp_path, cluster).mkdir(parents=True)
        (fleet_folder(tmp_path, cluster) / "m1.log").touch()

    assert [log.parent.name for log in log_files("m1", "", tmp_path)] == ["bird-game", "cat-game"]
    assert [log.parent.name for log in log_files("m1", "cat-game", tmp_path)] == ["cat-game"]
    assert log_files("m2", "", tmp_path) == []
