"""What a node of kind `batch` is told: one packaged model, and how its runs are made, limited, kept and told of.

Everything is resolved: durations are seconds, sizes are bytes. Paths of schemas are relative to the workflow's folder.
"""

from typing import Annotated, Any, Literal

from pydantic import Field

from runtime.spec.frozen import Frozen

# Seconds that a run may take on a node that says nothing about `timeout`.
DEFAULT_RUN_TIMEOUT_S = 3600.0
# Seconds that a record, and what the runtime stores of a run, is kept when the file does not say.
DEFAULT_KEEP_S = 30 * 86_400.0
# Bytes of output on the model's streams, and of all its files, when the file does not say.
DEFAULT_LOG_BYTES = 64 * 1024**2
DEFAULT_OUTPUT_BYTES = 10 * 1024**3
DEFAULT_MEMORY_BYTES = 2 * 1024**3
# Where artifacts go when the file does not say: an object store of the workflow.
DEFAULT_STORE = "nats:runs"
STORE_SCHEMES = ("nats:", "file:///", "s3://")


class Schemas(Frozen):
    """JSON Schemas of the configuration and of `output/data.json`, as paths; "" for none."""

    input: str = ""
    output: str = ""


class Resources(Frozen):
    """What one run may use. cpu: cores. pids: processes and threads. gpu: how many."""

    cpu: Annotated[float, Field(gt=0)] = 1.0
    memory_bytes: Annotated[int, Field(gt=0)] = DEFAULT_MEMORY_BYTES
    pids: Annotated[int, Field(gt=0)] = 1024
    gpu: Annotated[int, Field(ge=0)] = 0


class RunLimits(Frozen):
    """log_bytes: of each stream that is kept. output_bytes, files: of all folders. parallel: models of one request."""

    log_bytes: Annotated[int, Field(gt=0)] = DEFAULT_LOG_BYTES
    output_bytes: Annotated[int, Field(gt=0)] = DEFAULT_OUTPUT_BYTES
    files: Annotated[int, Field(gt=0)] = 100_000
    parallel: Annotated[int, Field(gt=0)] = 8


class ArtifactRules(Frozen):
    """Where the files of a run go, for how long, and who may have them. What no pattern names is private.

    store: `nats:<object store>`, `file:///path` or `s3://bucket/prefix`. public: patterns of paths in the run's folder.
    """

    store: str = DEFAULT_STORE
    prefix: str = "simulation-runs"
    public: tuple[str, ...] = ("output/data.json", "export.zip")
    private: tuple[str, ...] = ("log/**", "metadata.json")
    keep_s: Annotated[float, Field(gt=0)] = DEFAULT_KEEP_S


class CallbackRules(Frozen):
    """Who is told of a run. url: a template, "" for nobody; token_env: variable with the bearer token.

    allow: patterns of the URLs that a request may lead to. on_error: what becomes of a run whose start cannot be told.
    """

    url: str = ""
    token_env: str = ""
    allow: tuple[str, ...] = ()
    on_error: Literal["fail", "ignore"] = "fail"
    timeout_s: Annotated[float, Field(gt=0)] = 10.0
    retries: Annotated[int, Field(ge=0)] = 3


class BatchSpec(Frozen):
    """Kind `batch`: runs a packaged model once for each message.

    image, command: the package, one of them. allowed_images: patterns of images that requests may name; none for no
    other than the node's. engine: of containers. network: `none`, or a network of the engine. user: whom a container
    runs as. environment: variables of the model. unsupported: exit codes that say that it refuses the input.
    timeout_s: of one run, None for no limit. grace_s: between the request to stop and the end by force.
    """

    backend: Literal["docker", "command"]
    image: str = ""
    command: tuple[str, ...] = ()
    allowed_images: tuple[str, ...] = ()
    version: str = ""
    engine: str = "auto"
    network: str = "none"
    user: Literal["worker", "image"] = "worker"
    read_only: bool = False
    environment: dict[str, str] = Field(default_factory=dict)
    schemas: Schemas = Schemas()
    unsupported: tuple[int, ...] = (10,)
    timeout_s: Annotated[float, Field(gt=0)] | None = DEFAULT_RUN_TIMEOUT_S
    grace_s: Annotated[float, Field(ge=0)] = 10.0
    resources: Resources = Resources()
    limits: RunLimits = RunLimits()
    artifacts: ArtifactRules = ArtifactRules()
    callback: CallbackRules = CallbackRules()

    @property
    def object_store(self) -> str:
        """Name of the workflow's object store that keeps the artifacts, "" where they are kept elsewhere."""
        scheme, _, name = self.artifacts.store.partition(":")
        return name if scheme == "nats" else ""

    @property
    def files(self) -> list[str]:
        """Paths of the schemas, each once."""
        return list(dict.fromkeys(path for path in (self.schemas.input, self.schemas.output) if path))


def batch_spec(values: dict[str, Any]) -> BatchSpec:
    """Take what belongs to the kind out of the values of a node, as the tables name them, and return it.

    `timeout` is that of a run, and `env` that of the model: neither is left to the node.
    """
    nested = {
        "schemas": Schemas,
        "resources": Resources,
        "limits": RunLimits,
        "artifacts": ArtifactRules,
        "callback": CallbackRules,
    }
    given = {name: values.pop(name) for name in BatchSpec.model_fields if name in values}
    if "env" in values:
        given["environment"] = values.pop("env")
    given |= {name: kind(**given[name]) for name, kind in nested.items() if name in given}
    return BatchSpec(**given)
