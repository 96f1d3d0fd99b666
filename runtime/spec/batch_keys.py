"""The keys of nodes of kind `batch`, in tables like those of `spec/fields.py`, and what holds among them."""

import re
from dataclasses import dataclass

from runtime.spec import names
from runtime.spec.batch import DEFAULT_STORE, STORE_SCHEMES
from runtime.spec.drivers import Anything
from runtime.spec.record import Field, Record
from runtime.spec.report import Fault, Report
from runtime.spec.resources import Cores
from runtime.spec.tree import Items, Value
from runtime.spec.values import (
    VARIABLE,
    AnyText,
    Choice,
    Duration,
    JsonSchema,
    Path,
    Size,
    Spot,
    Switch,
    ValueType,
    WholeNumber,
    check_variable,
    expect_text,
    wrong_type,
)
from runtime.spec.wiring import NodeDraft

# Keys that only a model in a container has.
_OF_CONTAINERS = ("image", "allowed_images", "engine", "network", "user", "read_only")
_PREFIX = re.compile(r"[A-Za-z0-9_-]+(/[A-Za-z0-9_-]+)*")


@dataclass(frozen=True, slots=True)
class Texts:
    """A list of texts that are not empty."""

    example: str

    def read(self, value: Value, spot: Spot, report: Report) -> tuple[str, ...]:
        if not isinstance(value, Items):
            raise wrong_type(value, spot, f"a list: {self.example}")
        found: list[str] = []
        for item in value.items:
            with report.collecting():
                expect_text(item, spot, f"texts: {self.example}")
                found.append(AnyText().read(item, spot, report))
        return tuple(found)

    def schema(self) -> JsonSchema:
        return {"type": "array", "items": AnyText().schema()}


@dataclass(frozen=True, slots=True)
class AllowedImages:
    """`{allow: [patterns]}`."""

    def read(self, value: Value, spot: Spot, report: Report) -> tuple[str, ...]:
        found: tuple[str, ...] = IMAGES.read(value, spot, report).get("allow", ())
        return found

    def schema(self) -> JsonSchema:
        return IMAGES.schema()


@dataclass(frozen=True, slots=True)
class ExitCodes:
    """`{unsupported: [codes]}`."""

    def read(self, value: Value, spot: Spot, report: Report) -> tuple[int, ...]:
        found: tuple[int, ...] = EXIT_CODES.read(value, spot, report).get("unsupported", ())
        return found

    def schema(self) -> JsonSchema:
        return EXIT_CODES.schema()


@dataclass(frozen=True, slots=True)
class Codes:
    """A list of exit codes other than 0."""

    def read(self, value: Value, spot: Spot, report: Report) -> tuple[int, ...]:
        if not isinstance(value, Items):
            raise wrong_type(value, spot, "a list of exit codes: [10]")
        found: list[int] = []
        for item in value.items:
            with report.collecting():
                found.append(WholeNumber(most=255).read(item, spot, report))
        return tuple(found)

    def schema(self) -> JsonSchema:
        return {"type": "array", "items": WholeNumber(most=255).schema()}


@dataclass(frozen=True, slots=True)
class StoreAddress:
    """Where artifacts go: `nats:runs`, `file:///path` or `s3://bucket/prefix`."""

    def read(self, value: Value, spot: Spot, report: Report) -> str:
        text = expect_text(value, spot, "the address of a store: nats:runs")
        scheme = next((scheme for scheme in STORE_SCHEMES if text.text.startswith(scheme)), "")
        name = text.text.removeprefix(scheme)
        if not scheme or not name or (scheme == "nats:" and not names.is_name(name)):
            remedy = "write nats:<object store>, file:///path or s3://bucket/prefix"
            raise Fault(value.place, f"{spot} is {text}", remedy, "wrong-value")
        return text.text

    def schema(self) -> JsonSchema:
        return {"type": "string", "pattern": f"^({'|'.join(STORE_SCHEMES)})."}


@dataclass(frozen=True, slots=True)
class Prefix:
    """What the keys of artifacts begin with: no character of it needs escaping anywhere."""

    def read(self, value: Value, spot: Spot, report: Report) -> str:
        text = expect_text(value, spot, "a prefix: simulation-runs")
        if not _PREFIX.fullmatch(text.text):
            raise Fault(value.place, f"{spot} is {text}", "use letters, digits, - and _, with / between", "bad-name")
        return text.text

    def schema(self) -> JsonSchema:
        return {"type": "string", "pattern": f"^{_PREFIX.pattern}$"}


@dataclass(frozen=True, slots=True)
class Variable:
    """The name of a variable that holds a secret."""

    def read(self, value: Value, spot: Spot, report: Report) -> str:
        text = expect_text(value, spot, "the name of a variable: API_TOKEN")
        check_variable(text, spot)
        return text.text

    def schema(self) -> JsonSchema:
        return {"type": "string", "pattern": f"^{VARIABLE.pattern}$"}


@dataclass(frozen=True, slots=True)
class OfKinds:
    """A key that several kinds have, each in its own form; where the kind is not known, any of them may be meant."""

    types: tuple[ValueType, ...]

    def read(self, value: Value, spot: Spot, report: Report) -> object:
        return Anything().read(value, spot, report)

    def schema(self) -> JsonSchema:
        return {"anyOf": [each.schema() for each in self.types]}


IMAGES = Record(
    {"allow": Field(type=Texts('["registry.example/models/*"]'), description="Patterns: * within a step, **")}
)
EXIT_CODES = Record({"unsupported": Field(type=Codes(), default=[10], description="The model refuses the input")})
SCHEMAS = Record(
    {
        "input": Field(type=Path(), description="JSON Schema of the configuration, beside the file"),
        "output": Field(type=Path(), description="JSON Schema of output/data.json, beside the file"),
    }
)
RESOURCES = Record(
    {
        "cpu": Field(type=Cores(), default=1, description="Cores, 2 or 500m"),
        "memory": Field(type=Size(), default="2Gi", attribute="memory_bytes", description="Memory"),
        "pids": Field(type=WholeNumber(most=1_000_000), default=1024, description="Processes and threads"),
        "gpu": Field(type=WholeNumber(least=0, most=64), default=0, description="GPUs"),
    }
)
RUN_LIMITS = Record(
    {
        "log": Field(type=Size(), default="64Mi", attribute="log_bytes", description="Of each stream that is kept"),
        "output": Field(type=Size(), default="10Gi", attribute="output_bytes", description="All files of a run"),
        "files": Field(type=WholeNumber(most=10_000_000), default=100_000, description="How many they may be"),
        "parallel": Field(type=WholeNumber(), default=8, description="Models of one request that run at once"),
    }
)
ARTIFACTS = Record(
    {
        "store": Field(
            type=StoreAddress(), default=DEFAULT_STORE, description="nats:<store>, file:///path, s3://bucket/prefix"
        ),
        "prefix": Field(type=Prefix(), default="simulation-runs", description="What all keys begin with"),
        "public": Field(
            type=Texts("[export.zip]"),
            default=["output/data.json", "export.zip"],
            description="Files that need no token, of a run that has completed",
        ),
        "private": Field(
            type=Texts('["log/**"]'),
            default=["log/**", "metadata.json"],
            description="Files that do; so do those that no pattern names",
        ),
        "keep": Field(
            type=Duration(positive=True), default="30d", attribute="keep_s", description="How long a run is kept"
        ),
    }
)
CALLBACK = Record(
    {
        "url": Field(type=AnyText(), description='Template: "{callbackURL}/runs/{id}"'),
        "token_env": Field(type=Variable(), description="Variable that holds the bearer token"),
        "allow": Field(type=Texts('["https://app.example/*"]'), description="Patterns of the URLs that may be called"),
        "on_error": Field(
            type=Choice(("fail", "ignore")), default="fail", description="What a start that cannot be told does"
        ),
        "timeout": Field(
            type=Duration(positive=True), default="10s", attribute="timeout_s", description="Of one attempt"
        ),
        "retries": Field(type=WholeNumber(least=0, most=100), default=3, description="Attempts after the first one"),
    }
)

BATCH = {
    "backend": Field(type=Choice(("docker", "command")), required=True, description="What runs the model"),
    "image": Field(type=AnyText(), description="The model as a container image, best with its digest"),
    "command": Field(
        type=Texts("[python, run.py]"),
        description="The model as a command, without a shell: {input} {output} {log} {metadata} are its paths",
    ),
    "images": Field(type=AllowedImages(), attribute="allowed_images", description="Which images requests may name"),
    "engine": Field(
        type=Choice(("auto", "docker", "podman")), default="auto", description="Of containers; auto takes what is there"
    ),
    "network": Field(type=AnyText(), default="none", description="Network of the engine for its containers"),
    "user": Field(type=Choice(("worker", "image")), default="worker", description="Whom a container runs as"),
    "read_only": Field(type=Switch(), default=False, description="A container writes into its folders alone"),
    "version": Field(type=AnyText(), description="Of the model; what the backend says by default"),
    "schemas": Field(type=SCHEMAS, description="What goes in and what comes out"),
    "exit_codes": Field(type=ExitCodes(), attribute="unsupported", description="What exit codes mean, beside 0"),
    "timeout": Field(
        type=Duration(positive=True, or_none=True),
        default="1h",
        attribute="timeout_s",
        description="Limit of one run, or none",
    ),
    "grace": Field(
        type=Duration(), default="10s", attribute="grace_s", description="From the request to stop to the end by force"
    ),
    "concurrency": Field(type=WholeNumber(most=1000), default=1, description="Requests handled at once by a replica"),
    "resources": Field(type=RESOURCES, description="What one run may use"),
    "limits": Field(type=RUN_LIMITS, description="What one run may leave"),
    "artifacts": Field(type=ARTIFACTS, description="Where the files of runs go, and who may have them"),
    "callback": Field(type=CALLBACK, description="Who is asked before a run, and told of its end"),
}


def check_batch(draft: NodeDraft, report: Report) -> None:
    """Report what does not go together on a node of kind batch."""
    values = draft.values
    backend = values.get("backend")
    needed = {"docker": "image", "command": "command"}.get(backend or "")
    if needed is not None and not values.get(needed):
        what = f'{draft.title} has the backend "{backend}" and no "{needed}"'
        report.add(Fault(draft.place, what, "add it", "missing-key"))
    if backend == "command":
        for key in [key for key in _OF_CONTAINERS if key in values]:
            written = "images" if key == "allowed_images" else key
            what = f'{draft.title} has "{written}", and a command runs in no container'
            report.add(Fault(draft.place, what, 'remove it, or write "backend: docker"', "conflict"))
