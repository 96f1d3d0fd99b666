"""Logs of model hosts: written by model, rotated, read from their end."""

from pathlib import Path

import pytest

from runtime.cli import model_logs
from runtime.cli.model_logs import ModelLogs, last_lines


def test_lines_are_kept_by_model(tmp_path: Path) -> None:
    with ModelLogs(tmp_path / "c") as logs:
        for model_id, line in (("m1", "one 100%"), ("m2", "two"), ("m1", "three")):
            logs.line(model_id, line)

    assert last_lines(tmp_path / "c" / "m1.log", 50) == ["one 100%", "three"]
    assert last_lines(tmp_path / "c" / "m2.log", 50) == ["two"]


def test_a_log_goes_on_where_the_last_run_has_ended(tmp_path: Path) -> None:
    for line in ("first run", "second run"):
        with ModelLogs(tmp_path) as logs:
            logs.line("m1", line)

    assert last_lines(tmp_path / "m1.log", 50) == ["first run", "second run"]


def test_a_long_log_is_begun_anew_and_its_oldest_lines_go(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(model_logs, "MAX_LOG_BYTES", 40)
    with ModelLogs(tmp_path) as logs:
        for number in range(100):
            logs.line("m1", f"line {number}")

    sizes = [file.stat().st_size for file in tmp_path.iterdir()]
    assert len(sizes) == 1 + model_logs.OLDER_LOGS and max(sizes) <= 40
    assert last_lines(tmp_path / "m1.log", 8) == [f"line {number}" for number in range(92, 100)]


def test_no_more_lines_are_read_than_were_asked_for(tmp_path: Path) -> None:
    with ModelLogs(tmp_path) as logs:
        for number in range(10):
            logs.line("m1", str(number))

    assert last_lines(tmp_path / "m1.log", 3) == ["7", "8", "9"]


def test_a_log_without_a_line_has_none(tmp_path: Path) -> None:
    (tmp_path / "m1.log").touch()

    assert last_lines(tmp_path / "m1.log", 3) == []
