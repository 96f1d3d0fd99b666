"""Users of a model cluster: who may tell of whom, ask whom, and stop whom."""

from pathlib import Path

import pytest

from runtime.deploy.model_permissions import model_permissions
from runtime.deploy.permissions import Permissions
from runtime.spec import names
from runtime.spec.models_file import DesiredModel, ModelsFile


@pytest.fixture
def users() -> dict[str, Permissions]:
    models = tuple(DesiredModel(id=model_id, name="", code=Path()) for model_id in ("m1", "M_2"))
    return {user.process: user for user in model_permissions(ModelsFile(cluster="bird-game", models=models))}


def test_every_model_is_a_user_and_so_are_those_who_use_the_cluster(users: dict[str, Permissions]) -> None:
    assert [user.user for user in users.values()] == [
        "bird-game.model.m1",
        "bird-game.model.M_2",
        "bird-game.coordinator",
        "bird-game.operator",
    ]


def test_a_model_tells_of_itself_alone_and_is_asked_alone(users: dict[str, Permissions]) -> None:
    model = users["model.m1"]

    assert [subject for subject in model.publish if subject.startswith("$KV.")] == ["$KV.presence.model.bird-game.m1.>"]
    assert model.subscribe == ("model.bird-game.m1.*.>", f"{names.inbox_prefix('bird-game', 'model.m1')}.>")
    assert model.answers


@pytest.mark.parametrize(
    ("action", "allowed"),
    [
        ("call", {"coordinator"}),
        ("setup", {"coordinator"}),
        ("report", {"coordinator"}),
        ("stop", {"coordinator", "operator"}),
        ("health", {"coordinator", "operator"}),
        ("infos", {"operator"}),
    ],
)
def test_models_cannot_ask_one_another(users: dict[str, Permissions], action: str, allowed: set[str]) -> None:
    subject = names.model_subject("bird-game", "*", "*", action)

    assert {name for name, user in users.items() if subject in user.publish} == allowed


def test_only_the_operator_writes_the_quarantine(users: dict[str, Permissions]) -> None:
    writers = {name for name, user in users.items() if "$KV.quarantine_bird-game.>" in user.publish}

    assert writers == {"operator"}


def test_no_permission_is_wider_than_the_cluster(users: dict[str, Permissions]) -> None:
    subjects = {subject for user in users.values() for subject in (*user.publish, *user.subscribe)}

    foreign = [subject for subject in subjects if "bird-game" not in subject and "presence" not in subject]

    assert foreign == []
