"""docker/compose.yaml: the whole of it runs, and nothing is lost when its containers crash one after another."""

import asyncio
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml

from runtime.bus.nats import NatsBus
from runtime.client import Workflow as Client
from test.container import standins
from test.container.compose import NoComposeError, Project, install
from test.container.conftest import BASE, last_line
from test.container.podman import Podman
from test.support.influx_server import NoInfluxError
from test.support.mongo import ferretdb_binary
from test.support.ports import free_port

pytestmark = pytest.mark.container

ROOT = Path(__file__).parents[2]
COMPOSE_FILE = ROOT / "docker/compose.yaml"
DIGITS = ROOT / "workflows/digits"
STREAM = "local_dev_digits"
# Where the file publishes the driver `api`.
API = "http://127.0.0.1:8080"

# End of the line with which a process of ours says that it works.
READY = " ready action=ready"
# What crashes, and how many requests are under way at that moment. Not NATS: an answer on its way would be lost.
# Not `record`: a crash may lose its last measurements.
VICTIMS = ("classify", "krt.writer", "mongo", "influx")
REQUESTS = 40
# Seconds that an answer may take, a crash in between; and the last measurements until they are stored.
ANSWER_S, STORED_S = 60.0, 30.0

FIND_DOCUMENTS = """
import asyncio, json
from runtime.settings import read_writer
from runtime.stores.open import open_documents

async def main():
    settings = read_writer()
    store = open_documents(settings.mongo_uri, settings.mongo_database)
    print(json.dumps(await store.find("classificationMetrics", {})))

asyncio.run(main())
"""
COUNT_MEASUREMENTS = "http://127.0.0.1:8086/query?db=local&q=SELECT%20count(confidence)%20FROM%20digit"


@pytest.fixture
def images(podman: Podman, tmp_path: Path) -> None:
    """Build what the compose file names."""
    if not ferretdb_binary().is_file():
        pytest.skip("FerretDB is not built (Go 1.24 and minutes are needed): python -m test.support.mongo")
    krt = "localhost/krt:cpu"
    podman.build("docker/Dockerfile", krt, context=ROOT, arguments={"BASE_IMAGE": BASE})
    podman.build(str(DIGITS / "Dockerfile"), "localhost/krt-digits", context=DIGITS, arguments={"KRT_IMAGE": krt})
    folders = [tmp_path / name for name in ("nats", "mongo", "influx")]
    for folder in folders:
        folder.mkdir()
    standins.build_nats(podman, folders[0], BASE)
    standins.build_mongo(podman, folders[1], BASE)
    try:
        standins.build_influx(podman, folders[2], krt)
    except NoInfluxError as error:
        pytest.skip(str(error))


@pytest.fixture
def nats_port() -> int:
    return free_port()


@pytest.fixture
def project(podman: Podman, images: None, nats_port: int, tmp_path: Path) -> Iterator[Project]:
    """Run the compose file until every process works; the logs are shown when the test fails."""
    try:
        program = install(tmp_path / "podman-compose")
    except NoComposeError as error:
        pytest.skip(str(error))
    try:
        podman.run("run", "--rm", "--network=podman", BASE, "true")
    except AssertionError as error:
        pytest.skip(f"podman makes no networks here: {last_line(error)}")
    made = Project(podman, program, file=COMPOSE_FILE, variables={"KRT_NATS_PORT": str(nats_port)})
    try:
        made.up()
        for service in processes():
            made.wait_for_line(service, READY)
        yield made
        for service in services():
            print(f"--- {service} ---\n{made.logs(service)}")
    finally:
        made.down()


async def test_nothing_is_lost_when_containers_crash_under_way(project: Project, nats_port: int) -> None:
    sample = json.loads((DIGITS / "sample.json").read_text())
    bus = await NatsBus.connect([f"nats://127.0.0.1:{nats_port}"], name="test")

    async with Client(bus, STREAM) as client:
        answers = [await client.predict({**sample, "label": "first"}, timeout_s=ANSWER_S)]
        answers.append(await ask_over_http({**sample, "label": "http"}))
        for victim in VICTIMS:
            labels = [f"{victim} {n}" for n in range(REQUESTS)]
            answers += await ask_while_it_crashes(
                client, project, victim, [{**sample, "label": each} for each in labels]
            )
    await bus.close()

    expected = ["first", "http", *(f"{victim} {n}" for victim in VICTIMS for n in range(REQUESTS))]
    assert [answer["digit"] for answer in answers] == ["2"] * len(expected)
    documents = json.loads(project.execute("krt.writer", "python", "-c", FIND_DOCUMENTS))
    assert sorted(document["trueValue"] for document in documents) == sorted(expected)
    assert await count_measurements(project, len(expected)) == len(expected)
    assert [project.restarts(victim) for victim in VICTIMS] == [1] * len(VICTIMS)
    for service in ("nats", *processes()):
        project.check_health(service)


async def ask_over_http(inputs: dict[str, Any]) -> Any:
    async with httpx.AsyncClient(base_url=API, timeout=ANSWER_S) as http:
        return (await http.post("/predict", json=inputs)).raise_for_status().json()


async def ask_while_it_crashes(
    client: Client, project: Project, victim: str, requests: list[dict[str, Any]]
) -> list[dict[str, Any]]:
    """Return the answers; a container crashes once the first one is there."""
    futures = [client.predict(each, timeout_s=ANSWER_S) for each in requests]
    await asyncio.wait(futures, return_when=asyncio.FIRST_COMPLETED)
    await asyncio.to_thread(project.crash, victim)
    return list(await asyncio.gather(*futures))


async def count_measurements(project: Project, expected: int) -> int:
    """Return how many InfluxDB holds, once it is as many as expected or time is over; nobody announces them."""
    loop = asyncio.get_running_loop()
    give_up_s = loop.time() + STORED_S
    while True:
        answer = await asyncio.to_thread(project.execute, "influx", "wget", "-q", "-O", "-", COUNT_MEASUREMENTS)
        (series,) = json.loads(answer)["results"][0].get("series", [{"values": [[0, 0]]}])
        count = int(series["values"][0][1])
        if count >= expected or loop.time() > give_up_s:
            return count
        await asyncio.sleep(0.5)


def services() -> list[str]:
    return list(yaml.safe_load(COMPOSE_FILE.read_text())["services"])


def processes() -> list[str]:
    """Return the services that are processes of the runtime."""
    return [service for service in services() if service not in ("nats", "mongo", "influx")]
