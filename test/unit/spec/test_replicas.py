"""A range of replicas, and the images of processes."""

from pathlib import Path

import pytest

from runtime.spec.load import load, load_report
from runtime.spec.model import Workflow
from runtime.spec.replicas import Scaling


def write(folder: Path, keys: str) -> Path:
    file = folder / "workflow.yaml"
    file.write_text(f"name: hello\nnodes:\n  - {{name: count, {keys}}}\n")
    return file


def flow(folder: Path, keys: str) -> Workflow:
    return load(write(folder, keys))


def problems(folder: Path, keys: str) -> list[str]:
    report = load_report(write(folder, keys)).report
    return [str(problem).partition(": ")[2] for problem in report.problems]


@pytest.mark.parametrize(
    ("written", "scaling"),
    [
        ("{min: 2, max: 8, lag: 30s, rate: 20}", Scaling(min=2, max=8, lag=600)),
        ("{min: 1, max: 8, lag: 10s}", Scaling(min=1, max=8, lag=100)),
        ("{max: 3}", Scaling(min=1, max=3, lag=100)),
        ("{max: 3, lag: 250}", Scaling(min=1, max=3, lag=250)),
        ("{max: 3, lag: 10s, rate: 0.01}", Scaling(min=1, max=3, lag=1)),
    ],
)
def test_a_lag_in_time_becomes_messages_by_the_rate_of_a_replica(
    tmp_path: Path, written: str, scaling: Scaling
) -> None:
    node = flow(tmp_path, f"replicas: {written}").nodes[0]

    assert node.scaling == scaling
    assert node.replicas == scaling.min


def test_a_number_of_replicas_is_not_scaled(tmp_path: Path) -> None:
    node = flow(tmp_path, "replicas: 3").nodes[0]

    assert (node.replicas, node.scaling) == (3, None)


@pytest.mark.parametrize(
    ("written", "problem"),
    [
        ("{min: 1}", '"replicas" of node "count" has no "max"; add one [missing-key]'),
        ("{min: 4, max: 2}", '"replicas" of node "count" goes from 4 to 2; lower min, or raise max [out-of-range]'),
        ("{max: 2, lag: 0}", '"lag" of node "count" is 0; give 1 or more [out-of-range]'),
        ("{max: 2, lag: 0s}", '"lag" of node "count" is 0s; give 1ms or more [out-of-range]'),
        (
            "{max: 2, lag: soon}",
            '"lag" of node "count" is \'soon\'; give a duration, or a number of messages: 10s or 100 [wrong-type]',
        ),
        (
            "{max: 2, lag: 9, rate: 2}",
            '"replicas" of node "count" has "rate", and a lag of 9 messages, which has no use for it; remove it, or'
            " write the lag as a time: 10s [conflict]",
        ),
        ("many", '"replicas" of node "count" is \'many\'; give a whole number or {min, max, lag} [wrong-type]'),
    ],
)
def test_a_range_that_cannot_be_is_refused(tmp_path: Path, written: str, problem: str) -> None:
    assert problems(tmp_path, f"replicas: {written}") == [problem]


def test_more_replicas_than_partitions_are_warned_of_in_a_range_too(tmp_path: Path) -> None:
    (problem,) = problems(tmp_path, "order: {partitions: 4}, replicas: {max: 9}")

    assert 'node "count" has 9 replicas for 4 partitions' in problem


def test_an_image_is_kept_and_what_is_none_is_refused(tmp_path: Path) -> None:
    image = "registry.example:5000/team/score@sha256:" + "0" * 64

    assert flow(tmp_path, f"image: {image}").nodes[0].image == image
    assert problems(tmp_path, 'image: "a b"') == [
        '"image" of node "count" is \'a b\'; name it as an engine does: registry.example/score:1.4 [bad-name]'
    ]


def test_an_image_is_no_default_of_all_nodes(tmp_path: Path) -> None:
    file = tmp_path / "workflow.yaml"
    file.write_text("name: hello\ndefaults: {image: score:1}\nnodes: [{name: count}]\n")

    (problem,) = load_report(file).report.problems

    assert problem.code == "not-shared"
