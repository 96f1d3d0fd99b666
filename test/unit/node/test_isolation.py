"""The variables of worker processes."""

import pytest

from runtime.node.isolation import worker_environment


@pytest.mark.parametrize(
    ("devices", "count", "shares"),
    [
        ("0", 1, ["0"]),
        ("0,1", 1, ["0,1"]),
        ("0,1", 2, ["0", "1"]),
        ("0,1", 4, ["0", "1", "0", "1"]),
        ("4,5,6,7", 2, ["4,6", "5,7"]),
        ("GPU-a,GPU-b", 3, ["GPU-a", "GPU-b", "GPU-a"]),
    ],
)
def test_every_worker_has_its_share_of_the_nodes_devices(devices: str, count: int, shares: list[str]) -> None:
    environ = {"CUDA_VISIBLE_DEVICES": devices}

    seen = [worker_environment(environ, number, count) for number in range(1, count + 1)]

    assert [each["CUDA_VISIBLE_DEVICES"] for each in seen] == shares


@pytest.mark.parametrize("environ", [{}, {"CUDA_VISIBLE_DEVICES": ""}])
def test_a_node_without_devices_gives_none(environ: dict[str, str]) -> None:
    assert worker_environment(environ, 1, 2) == environ


def test_a_worker_has_the_variables_of_the_user_and_none_that_lead_to_servers() -> None:
    environ = {
        "MODEL_KEY": "secret",
        "HF_HOME": "/models",
        "KRT_NODE_NAME": "score",
        "KRT_GPU_SHARE": "0.5",
        "KRT_NATS_SERVER": "nats://user:secret@host",
        "KRT_MONGO_URI": "mongodb://user:secret@host",
        "KRT_INFLUX_TOKEN": "secret",
    }

    seen = worker_environment(environ, 1, 1)

    users = {"MODEL_KEY": "secret", "HF_HOME": "/models"}
    assert seen == {**users, "KRT_NODE_NAME": "score", "KRT_GPU_SHARE": "0.5"}
