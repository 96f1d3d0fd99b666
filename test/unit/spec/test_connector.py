"""`meta.yml` of a connector: what is read of it, and every problem of a wrong one at its place."""

from pathlib import Path

import pytest

from runtime.spec.connector import ConnectorMeta, load_meta

FULL = """sir:
  name: SIR
  origin: Somebody
  enabled: false
  imageURL: registry.example/sir:1.0
  metaURLs: {code: "https://example.org/sir"}
  description: |
    Three
    compartments.
  supportedParameters: [r0, days]
  supportedRegions: {GB: [GB-ENG], IE: []}
"""


def problems(folder: Path, text: str) -> list[str]:
    (folder / "meta.yml").write_text(text)
    loaded = load_meta(folder)
    assert loaded.meta is None
    return [str(problem).removeprefix(f"{folder}/") for problem in loaded.report.problems]


def test_a_file_says_what_the_connector_is(tmp_path: Path) -> None:
    (tmp_path / "meta.yml").write_text(FULL)

    assert load_meta(tmp_path).meta == ConnectorMeta(
        slug="sir",
        name="SIR",
        image="registry.example/sir:1.0",
        origin="Somebody",
        enabled=False,
        urls={"code": "https://example.org/sir"},
        description="Three\ncompartments.\n",
        parameters=("r0", "days"),
        regions={"GB": ["GB-ENG"], "IE": []},
    )


def test_every_problem_is_told_at_its_place(tmp_path: Path) -> None:
    text = """sir:
  title: SIR
  imageURL: sir:1.0
  enabled: maybe
  supportedParameters: r0
  supportedRegions: {GB: []}
  supportedSchemas: [own]
"""

    assert problems(tmp_path, text) == [
        'meta.yml:1:1: model "sir" has "supportedRegions" as well as "supportedSchemas"; remove one of them [conflict]',
        'meta.yml:2:3: model "sir" has no "name"; add one [missing-key]',
        'meta.yml:2:3: model "sir" has no key "title"; use name, origin, enabled, imageURL, metaURLs, description,'
        " supportedParameters, supportedRegions or supportedSchemas [unknown-key]",
        'meta.yml:4:12: "enabled" of model "sir" is \'maybe\'; write true or false [wrong-value]',
        'meta.yml:5:24: "supportedParameters" of model "sir" is \'r0\'; give a list of texts [wrong-type]',
    ]


@pytest.mark.parametrize("text", ["- sir", "name: SIR\nimageURL: sir\n"])
def test_a_file_without_a_slug_says_what_is_missing(tmp_path: Path, text: str) -> None:
    (problem,) = problems(tmp_path, text)

    assert "the file does not describe one model; write the slug of the model" in problem


def test_a_slug_that_is_no_name_is_a_problem(tmp_path: Path) -> None:
    (problem,) = problems(tmp_path, "Big Model: {name: a, imageURL: b}\n")

    assert '"big-model"' in problem


def test_a_missing_file_is_a_problem_too(tmp_path: Path) -> None:
    assert [problem.code for problem in load_meta(tmp_path).report.problems] == ["unreadable"]
