"""`models.yml`: what a file says of its models, and every problem of a wrong one at its place."""

from pathlib import Path

import pytest

from runtime.spec.models_file import DesiredModel, LoadedModels, ModelsFile, Restarts, load_models

FULL = """
cluster: bird-game
models:
  - {id: m1, name: alpha, code: models/alpha, resources: data, class: "tracker:Alpha", memory: 2Gi,
     desired: stopped, infos: {owner: ann, rank: 3}, restarts: {max: 1, within: 10m}}
  - {id: M_2, code: ./models/beta}
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in ("models/alpha", "models/beta", "data"):
        (tmp_path / name).mkdir(parents=True)
    return tmp_path


def read(folder: Path, text: str) -> LoadedModels:
    (folder / "models.yml").write_text(text)
    return load_models(folder)


def problems(folder: Path, text: str) -> list[str]:
    loaded = read(folder, text)
    assert loaded.models_file is None
    return [str(problem).removeprefix(f"{folder}/") for problem in loaded.report.problems]


def test_a_file_gives_the_models_that_shall_be_there(folder: Path) -> None:
    loaded = read(folder, FULL)

    alpha = DesiredModel(
        id="m1", name="alpha", code=folder / "models/alpha", resources=folder / "data", class_name="tracker:Alpha",
        infos={"owner": "ann", "rank": 3}, desired="stopped", memory_bytes=2 * 1024**3,
        restarts=Restarts(max=1, within_s=600),
    )  # fmt: skip
    beta = DesiredModel(id="M_2", name="M_2", code=folder / "models/beta")
    assert loaded.models_file == ModelsFile(cluster="bird-game", models=(alpha, beta))


def test_a_model_that_says_nothing_of_restarts_has_four_in_a_day(folder: Path) -> None:
    models_file = read(folder, "cluster: c\nmodels: [{id: a, code: data, restarts: {}}]").models_file

    assert models_file is not None
    assert models_file.models[0].restarts == Restarts(max=4, within_s=86_400)


def test_a_file_without_models_wants_none(folder: Path) -> None:
    assert read(folder, "cluster: c\nmodels: []").models_file == ModelsFile(cluster="c", models=())


def test_every_problem_is_told_at_its_place(folder: Path) -> None:
    text = """cluster: Bird Game
models:
  - {id: m1, cod: models/alpha}
  - {id: "a.b", code: models/alpha, desired: runing}
  - {id: m1, code: models/gamma, restarts: {max: -1}}
"""

    assert problems(folder, text) == [
        'models.yml:1:10: "Bird Game" is no name; use a-z, 0-9 and "-", 40 characters at most: "bird-game" [bad-name]',
        'models.yml:3:5: model "m1" has no "code"; add one [missing-key]',
        'models.yml:3:14: model "m1" has no key "cod"; did you mean "code"? [unknown-key]',
        'models.yml:4:10: "id" of model "a.b" is \'a.b\'; use letters, digits, "-" and "_", 64 characters at most'
        " [bad-name]",
        'models.yml:4:46: "desired" of model "a.b" is \'runing\'; did you mean "running"? [wrong-value]',
        'models.yml:5:5: two models have the id "m1", the first at line 3; give each its own [duplicate-name]',
        'models.yml:5:20: "code" of model "m1" is \'models/gamma\', which is no folder; there are alpha or beta'
        " [missing-file]",
        'models.yml:5:50: "max" of model "m1" is -1; give 0 or more [out-of-range]',
    ]


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("", 'models.yml:1:1: the file is empty; write at least "cluster" and "models" [empty-file]'),
        ("- m1", 'models.yml:1:1: the file holds a list; write at least "cluster" and "models" [wrong-type]'),
        ("cluster: c", 'models.yml:1:1: the file has no "models"; add one [missing-key]'),
        ("cluster: c\nmodels: m1", "models.yml:2:9: \"models\" of the file is 'm1'; give a list of models: "
         "[{id: m1, code: models/alpha}] [wrong-type]"),
    ],
)  # fmt: skip
def test_a_file_that_is_no_list_of_models_says_what_is_missing(folder: Path, text: str, problem: str) -> None:
    assert problems(folder, text) == [problem]


def test_a_missing_file_is_a_problem_too(tmp_path: Path) -> None:
    loaded = load_models(tmp_path / "none.yml")

    assert [problem.code for problem in loaded.report.problems] == ["unreadable"]
