"""Files of outputs: rotation, what a kill leaves behind, and a disk that is full."""

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from pyarrow import parquet  # type: ignore[import-untyped]  # it ships no types

from runtime.bus.memory import MemoryBroker
from runtime.clock import FakeClock
from runtime.drivers.base import DriverResourcesRequest
from runtime.drivers.flow import Item, NotConnected, Sink, Site
from runtime.drivers.resources import Resources
from runtime.drivers.sinks.file import FileSink
from runtime.drivers.sinks.parquet import ParquetSink

ITEM = Item({"in": 1}, request_id="r-1", source="gate", state_id="s", metadata={"unit": "C"})


@pytest.fixture
async def opened(clock: FakeClock) -> Callable[[Any], Any]:
    """Open a sink on a site of this test's own."""
    resources = Resources.bind(DriverResourcesRequest(), {}, listen="", address="", on_change=lambda: None)

    def open_sink(sink: Any) -> Any:
        bus = MemoryBroker(clock).connect()
        sink.site = Site(ref="out", driver="lines", stream="s", bus=bus, clock=clock, resources=resources)
        sink.open()
        return sink

    return open_sink


Open = Callable[[Sink], Any]


def files_in(folder: Path, pattern: str) -> list[str]:
    return sorted(each.name for each in folder.glob(pattern))


async def test_rotation_keeps_every_output_unless_it_is_told_how_many(opened: Open, tmp_path: Path) -> None:
    for name, keep in (("all.jsonl", 0), ("two.jsonl", 2)):
        sink = opened(FileSink(path=tmp_path / name, rotate_bytes=4, keep=keep))
        for number in range(5):
            sink.write(number, ITEM)
            sink.write(number, ITEM)
        sink.close()

    assert files_in(tmp_path, "all.*") == ["all.jsonl", *(f"all.jsonl.{number}" for number in range(1, 5))]
    assert (tmp_path / "all.jsonl.1").read_text() == "0\n0\n"
    assert files_in(tmp_path, "two.*") == ["two.jsonl", "two.jsonl.3", "two.jsonl.4"]


async def test_a_file_is_rotated_by_age(opened: Open, tmp_path: Path, clock: FakeClock) -> None:
    sink = opened(FileSink(path=tmp_path / "out.jsonl", rotate_every="1h"))

    sink.write(1, ITEM)
    await clock.advance(3599)
    sink.write(2, ITEM)
    await clock.advance(2)
    sink.write(3, ITEM)
    sink.close()

    assert [(tmp_path / name).read_text() for name in ("out.jsonl.1", "out.jsonl")] == ["1\n2\n", "3\n"]


@pytest.mark.parametrize(
    ("left", "kept"), [("1\n2\n", "1\n2\n"), ('1\n{"n": 2', "1\n"), ("1\n2", "1\n2\n"), ('{"n"', ""), ("", "")]
)
async def test_what_a_kill_has_left_of_a_line_is_cut_off(opened: Open, tmp_path: Path, left: str, kept: str) -> None:
    path = tmp_path / "out.jsonl"
    path.write_text(left)

    sink = opened(FileSink(path=path))
    sink.write(3, ITEM)
    sink.close()

    assert path.read_text() == f"{kept}3\n"


async def test_a_full_disk_is_waited_for_and_leaves_no_half_line(
    opened: Open, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "out.jsonl"
    sink = opened(FileSink(path=path))
    write = os.pwrite
    monkeypatch.setattr(os, "pwrite", lambda file, data, offset: write(file, data[:2], offset))

    with pytest.raises(NotConnected, match="is the disk full"):
        sink.write("abc", ITEM)
    monkeypatch.setattr(os, "pwrite", write)
    sink.close()
    sink.open()
    sink.write("abc", ITEM)
    sink.close()

    assert path.read_text() == '"abc"\n'


async def test_an_output_may_be_written_with_what_it_belongs_to(opened: Open, tmp_path: Path) -> None:
    sink = opened(FileSink(path=tmp_path / "out.jsonl", with_item=True))
    sink.write({"n": 1}, ITEM)
    sink.close()

    assert json.loads((tmp_path / "out.jsonl").read_text()) == {
        "request_id": "r-1",
        "number": 0,
        "source": "gate",
        "state_id": "s",
        "metadata": {"unit": "C"},
        "error": "",
        "output": {"n": 1},
    }


async def test_rows_of_a_killed_process_reach_the_next_parquet_file(opened: Open, tmp_path: Path) -> None:
    first = opened(ParquetSink(path=tmp_path / "out.parquet", rows=3))
    first.write({"n": 1}, ITEM)
    first.write({"n": 2}, ITEM)
    os.close(first._file)  # killed

    second = opened(ParquetSink(path=tmp_path / "out.parquet", rows=3))
    second.write({"n": 3}, ITEM)
    second.write({"n": 4}, ITEM)
    second.close()

    files = files_in(tmp_path, "*")
    assert files == ["out-000001.parquet", "out-000002.parquet"]
    assert [parquet.read_table(tmp_path / each).to_pylist() for each in files] == [
        [{"n": 1}, {"n": 2}, {"n": 3}],
        [{"n": 4}],
    ]


async def test_rows_without_common_types_are_kept_as_json_lines(opened: Open, tmp_path: Path) -> None:
    sink = opened(ParquetSink(path=tmp_path / "out.parquet", rows=2))
    sink.write({"n": 1}, ITEM)
    sink.write({"n": {"deep": "text"}}, ITEM)
    sink.write({"n": 3}, ITEM)
    sink.close()

    assert (tmp_path / "out-000001.jsonl").read_text() == '{"n":1}\n{"n":{"deep":"text"}}\n'
    assert parquet.read_table(tmp_path / "out-000002.parquet").to_pylist() == [{"n": 3}]


async def test_a_row_that_is_no_object_is_refused(opened: Open, tmp_path: Path) -> None:
    sink = opened(ParquetSink(path=tmp_path / "out.parquet"))

    with pytest.raises(TypeError, match="a row is a JSON object, and not int"):
        sink.write(1, ITEM)
    sink.close()
