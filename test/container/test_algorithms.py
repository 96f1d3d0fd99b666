"""workflows/algorithms/compose.yaml: a third runner is started beside all that runs, and gets the work that waits."""

import asyncio
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
import yaml

from runtime.bus.nats import NatsBus
from runtime.client import Workflow as Client
from test.container import standins
from test.container.compose import NoComposeError, Project, install
from test.container.conftest import BASE, last_line
from test.container.podman import Podman
from test.support.ports import free_port

pytestmark = pytest.mark.container

ROOT = Path(__file__).parents[2]
EXAMPLE = ROOT / "workflows/algorithms"
COMPOSE_FILE = EXAMPLE / "compose.yaml"
STREAM = "local_dev_algorithms"
# Where the file publishes the driver `api`.
API = "http://127.0.0.1:8080"
THIRD = "krt-container-test-numbers"

# End of the line with which a process of ours says that it works.
READY = " action=ready"
# Seconds that an answer may take.
ANSWER_S = 60.0


@pytest.fixture
def nats_port() -> int:
    return free_port()


@pytest.fixture
def project(podman: Podman, nats_port: int, tmp_path: Path) -> Iterator[Project]:
    """Run the compose file until every process works; the logs are shown when the test fails."""
    try:
        program = install(tmp_path / "podman-compose")
        podman.run("run", "--rm", "--network=podman", BASE, "true")
    except (NoComposeError, AssertionError) as error:
        pytest.skip(f"no compose here: {last_line(error)}")
    podman.build("docker/Dockerfile", "localhost/krt", context=ROOT, arguments={"BASE_IMAGE": BASE})
    (tmp_path / "nats").mkdir()
    standins.build_nats(podman, tmp_path / "nats", BASE)
    made = Project(podman, program, file=COMPOSE_FILE, variables={"KRT_NATS_PORT": str(nats_port)})
    try:
        made.up()
        for service in services():
            if service != "nats":
                made.wait_for_line(service, READY)
        yield made
        for service in services():
            print(f"--- {service} ---\n{made.logs(service)}")
    finally:
        podman.run("rm", "--force", "--ignore", "--time=1", THIRD)
        made.down()


@pytest.mark.timeout(600)
async def test_a_third_runner_needs_no_restart_of_anything(project: Project, podman: Podman, nats_port: int) -> None:
    bus = await NatsBus.connect([f"nats://127.0.0.1:{nats_port}"], name="test")
    async with Client(bus, STREAM) as client, httpx.AsyncClient(base_url=API, timeout=ANSWER_S) as http:
        counted = await client.predict(job("count_words", text="plug and play"), timeout_s=ANSWER_S)
        waiting = client.predict(job("median", numbers=[3, 1, 2]), timeout_s=ANSWER_S)
        unknown = await http.post("/run/median", json={"numbers": [1]})
        before = await listed(http)

        await asyncio.to_thread(start_third, podman, project)
        found = await waiting
        direct = await http.post("/run/median", json={"numbers": [4, 2]})
        after = await listed(http)
    await bus.close()

    assert (counted["result"], counted["runner"]) == (3, "texts")
    assert (unknown.status_code, before) == (404, ["count_words", "longest_word", "meme_classifier"])
    assert (found["result"], found["runner"]) == (2, "numbers")
    assert (direct.json(), after) == ({"result": 3}, sorted([*before, "median"]))
    assert [project.restarts(service) for service in services()] == [0] * len(services())


def job(algorithm: str, **arguments: object) -> dict[str, object]:
    return {"algorithm": algorithm, "payload": arguments}


async def listed(http: httpx.AsyncClient) -> list[str]:
    return sorted((await http.get("/algorithms")).raise_for_status().json())


def start_third(podman: Podman, project: Project) -> None:
    """Start a runner that no file names, and return when it serves."""
    podman.run(
        "run", "--detach", f"--name={THIRD}", f"--network={project.name}_default",
        f"--volume={EXAMPLE / 'numbers'}:/workflow:ro", "--env=KRT_NATS_SERVER=nats://nats:4222",
        "--env=KRT_RUNNER_NAME=numbers", "localhost/krt", "algorithms",
    )  # fmt: skip
    podman.wait_for_line(THIRD, READY)


def services() -> list[str]:
    return list(yaml.safe_load(COMPOSE_FILE.read_text())["services"])
