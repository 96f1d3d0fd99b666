"""Sources and sinks from mappings: every problem at once, values of variables, a user's own classes, documentation."""

import sys
from pathlib import Path
from typing import Any

import pytest

from runtime.drivers.components import (
    SINK,
    SINKS,
    SOURCE,
    SOURCES,
    describe,
    describe_parameters,
    find_class,
    read_ends,
)
from runtime.drivers.flow import SinkParameters, SourceParameters
from runtime.drivers.load import make_driver
from runtime.drivers.source_sink import SourceSinkDriver
from runtime.drivers.sources.file import FileSource
from runtime.errors import ConfigError, DriverStartError
from runtime.spec.driver import DriverSpec

OWN = """
from pydantic import Field
from runtime.drivers.flow import Source, SourceParameters

class CameraParameters(SourceParameters):
    url: str = Field(description="Of the stream.")

class Camera(Source):
    parameters = CameraParameters
    def read(self):
        yield from ()
"""


def test_every_problem_of_a_driver_is_told_at_once() -> None:
    sources: dict[str, Any] = {
        "in": {"class": "file", "path": "in.jsonl", "rate": -1, "speed": 3},
        "feed": {"class": "flie", "path": "x"},
        "tick": {"class": "timer", "interval": "5 minutes"},
        "when": {"class": "cron", "expression": "now and then"},
        "Bad": {"class": "dummy"},
        "text": {"class": "file", "path": "in.txt"},
        "none": {},
    }
    sinks: dict[str, Any] = {
        "out": {"class": "file", "path": "out.jsonl", "from": ["in", "inn"]},
        "hook": {"class": "http", "url_env": "NO_SUCH_VARIABLE"},
        "db": {"class": "mongo", "collection": "seen", "uri": "postgres://user:hunter2@host"},
    }

    with pytest.raises(DriverStartError) as caught:
        SourceSinkDriver(sources=sources, sinks=sinks)

    told = str(caught.value)
    for line in (
        "sources.in.rate: Input should be greater than 0",
        "sources.in.speed: there is no such parameter; there are rate, state_id, max_in_flight,",
        'sources.feed.class: "flie" is not known; use one of cron, dummy, file,',
        "sources.tick.interval: write a number and ms, s, m, h or d: 30s",
        'sources.when.expression: "now and then" is no cron expression',
        "sources.Bad: is no name; use a-z, 0-9 and -: bad",
        "sources.text: format of in.txt is not known by its name; write jsonl, csv or lines",
        "sources.none: needs a class: cron,",
        'sinks.out.from: there is no source "inn"; there are in, feed,',
        "sinks.hook.url_env: the variable NO_SUCH_VARIABLE is not set",
        "sinks.db.uri: write mongodb://",
    ):
        assert line in told, line
    assert "hunter2" not in told


def test_a_value_may_come_from_a_variable_and_is_not_shown() -> None:
    sinks = {"hook": {"class": "http", "url": "http://h", "token_env": "HOOK_TOKEN"}}

    ends = read_ends({}, sinks, {"HOOK_TOKEN": "secret"})

    params: Any = ends.sinks["hook"].sink.params
    assert params.token.get_secret_value() == "secret"
    assert "secret" not in repr(params)
    assert ends.problems == []


def test_a_driver_is_made_of_a_spec_with_durations_and_sizes() -> None:
    spec = DriverSpec(
        ref="lines",
        driver="source-sink",
        workflow="echo",
        stream="s",
        parameters={
            "sources": {"in": {"class": "file", "path": "in.jsonl", "rate": 10, "timeout": "500ms"}},
            "sinks": {"out": {"class": "file", "path": "out.jsonl", "rotate_bytes": "10Mi", "from": "workflow"}},
            "rates": {"in": 5},
        },
    )

    driver = make_driver(spec)

    assert isinstance(driver, SourceSinkDriver)
    assert driver.get_parameters().rates == {"in": 5.0}


def test_a_users_own_class_is_found_beside_the_workflow(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "own_cameras.py").write_text(OWN)
    monkeypatch.syspath_prepend(tmp_path)

    good = read_ends({"gate": {"class": "own_cameras:Camera", "url": "rtsp://gate", "rate": 10}}, {}, {})
    bad = read_ends({"gate": {"class": "own_cameras:Camera"}, "b": {"class": "own_cameras:OWN"}}, {}, {})

    assert good.problems == []
    assert type(good.sources["gate"]).__name__ == "Camera"
    assert [str(problem).partition(":")[0] for problem in bad.problems] == ["sources.gate.url", "sources.b.class"]
    sys.modules.pop("own_cameras")


@pytest.mark.parametrize("word", SOURCES)
def test_every_source_is_documented(word: str) -> None:
    text = describe(word, find_class(word, SOURCE, SOURCES))

    assert text.startswith(f"### {word}\n\n")
    assert "| rate |" in text
    assert not [line for line in text.splitlines() if line.endswith("|  |")]


@pytest.mark.parametrize("word", SINKS)
def test_every_sink_is_documented(word: str) -> None:
    text = describe(word, find_class(word, SINK, SINKS))

    assert "| errors | `false` |" in text
    assert not [line for line in text.splitlines() if line.endswith("|  |")]


PAGE = Path(__file__).parents[3] / "docs" / "sources-and-sinks.md"


def test_the_page_has_what_the_components_say_of_themselves() -> None:
    page = PAGE.read_text()

    for word in SOURCES:
        assert describe(word, find_class(word, SOURCE, SOURCES), only_own=True) in page, word
    for word in SINKS:
        assert describe(word, find_class(word, SINK, SINKS), only_own=True) in page, word
    for shared in (SourceParameters, SinkParameters):
        assert "\n".join(describe_parameters(shared.model_fields)) in page


def test_a_missing_package_is_told_with_its_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "aiomqtt", None)
    monkeypatch.delitem(sys.modules, "runtime.drivers.sources.mqtt", raising=False)

    with pytest.raises(ConfigError, match=r"the package aiomqtt is missing; install krt-runtime\[mqtt\]"):
        find_class("mqtt", SOURCE, SOURCES)


def test_parameters_are_given_made_or_by_value() -> None:
    made = FileSource(FileSource.parameters(path=Path("in.csv"), rate=2))

    assert made.params == FileSource(path="in.csv", rate=2).params
