"""What `krt model serve FILE` leaves for the other commands: `.krt/models/<cluster>/` of the folder it was started in.

| file | holds |
|---|---|
| `fleet.json` | where NATS is, who serves, which file; removed at the end |
| `<model id>.log` | the lines of the model's hosts, and `.log.1` and so on the older ones |
"""

from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

from runtime.bus.base import Bus
from runtime.cli.run_file import FOLDER, RunFile, is_alive, places_to_look, read_json, write_json
from runtime.cli.target import CONNECT_LIMIT_S, NotRunningError
from runtime.errors import BusUnavailableError, ConfigError
from runtime.settings import read_credentials_folder
from runtime.spec import names

MODELS_FOLDER = "models"
FLEET_FILE = "fleet.json"
LOCK_FILE = "serve.lock"

REMEDY = "start it with `krt model serve FILE`, or give --nats and --cluster"


@dataclass(frozen=True, slots=True, kw_only=True)
class FleetPlace:
    """A fleet that was started here. nats: addresses of servers, with commas. instance: in its subjects."""

    cluster: str
    instance: str
    nats: str
    pid: int
    file: str

    def write(self, place: Path) -> None:
        """Write into `.krt/` of the folder `place`."""
        write_json(fleet_folder(place, self.cluster) / FLEET_FILE, asdict(self))


@dataclass(frozen=True, slots=True, kw_only=True)
class ClusterTarget:
    """A cluster within reach. fleet: that of this folder, None where the options have named the cluster."""

    cluster: str
    nats: str
    fleet: FleetPlace | None = None


def fleet_folder(place: Path, cluster: str) -> Path:
    """Return where a fleet of the cluster leaves its files."""
    return place / FOLDER / MODELS_FOLDER / cluster


def find_cluster(*, cluster: str = "", nats: str = "", start: Path | None = None) -> ClusterTarget:
    """Return the cluster that the options name, or whose fleet runs in this folder or one above it.

    With a cluster and without an address, it is looked for on the server of a `krt run` of this folder, too.
    Raises ConfigError where several fleets run, and NotRunningError.
    """
    if nats:
        if not cluster:
            raise ConfigError("--nats says where to look; say with --cluster for which models")
        return ClusterTarget(cluster=cluster, nats=nats)
    found = [fleet for fleet in _fleets(start or Path.cwd()) if cluster in ("", fleet.cluster)]
    if len(found) > 1:
        raise ConfigError(f"several fleets run here: {', '.join(each.cluster for each in found)}; choose by --cluster")
    if found:
        return ClusterTarget(cluster=found[0].cluster, nats=found[0].nats, fleet=found[0])
    if cluster and (server := nearest_server(start or Path.cwd())):
        return ClusterTarget(cluster=cluster, nats=server)
    raise NotRunningError(f"no fleet{f' of {cluster}' if cluster else ''} runs here: {REMEDY}")


@asynccontextmanager
async def connected(target: ClusterTarget, *, name: str) -> AsyncIterator[Bus]:
    """Connect as the operator of the cluster, or as whoever the credentials are of.

    name: of the connection, in the server's monitoring. Raises NotRunningError, AccessError.
    """
    from runtime.bus.nats import NatsBus  # after the arguments were checked: it takes a while to import
    from runtime.deploy.model_permissions import OPERATOR

    folder = read_credentials_folder()
    if folder is not None and (own := folder / target.cluster / OPERATOR).is_dir():
        folder = own
    try:
        bus = await NatsBus.connect(
            target.nats.split(","),
            name=name,
            credentials=folder,
            inbox_prefix=names.inbox_prefix(target.cluster, OPERATOR),
            limit_s=CONNECT_LIMIT_S,
        )
        try:
            yield bus
        finally:
            await bus.close()
    except BusUnavailableError as error:
        raise NotRunningError(f'cluster "{target.cluster}" cannot be reached: {error}') from error


def nearest_server(start: Path) -> str:
    """Return the NATS of a `krt run` of this folder, or of the nearest one above it; "" where none runs."""
    for place in places_to_look(start):
        if (run := RunFile.read(place)) is not None and run.is_alive():
            return run.nats
    return ""


def log_files(model_id: str, cluster: str, start: Path) -> list[Path]:
    """Return the logs of a model in this folder or the nearest one above it, one for each cluster that has it."""
    for place in places_to_look(start):
        if found := sorted((place / FOLDER / MODELS_FOLDER).glob(f"{cluster or '*'}/{model_id}.log")):
            return found
    return []


def _fleets(start: Path) -> Iterator[FleetPlace]:
    """Yield the fleets that run in the nearest folder that has any."""
    for place in places_to_look(start):
        files = sorted((place / FOLDER / MODELS_FOLDER).glob(f"*/{FLEET_FILE}"))
        if running := [fleet for file in files if (fleet := _read(file)) is not None and is_alive(fleet.pid)]:
            yield from running
            return


def _read(file: Path) -> FleetPlace | None:
    found = read_json(file)
    try:
        return None if found is None else FleetPlace(**found)
    except TypeError as error:
        raise ConfigError(f"{file} cannot be read ({error!r}); remove it, and start `krt model serve` again") from error
