"""The keys `resources` and `image` of nodes, drivers and runners of algorithms: what each of their processes has."""

import re
from dataclasses import dataclass
from typing import Annotated

from pydantic import Field as Bound

from runtime.spec.frozen import Frozen
from runtime.spec.record import Field, Record
from runtime.spec.report import Fault, Report
from runtime.spec.tree import Value
from runtime.spec.values import NUMBER, ImageName, JsonSchema, Number, Size, Spot, expect_text, wrong_type

# Thousandths of a core, as Kubernetes writes them.
MILLICORES = re.compile(r"([0-9]{1,7})m")
# Cores that a process may ask for: the fewest that an engine can enforce, the most that a machine has.
MIN_CORES, MAX_CORES = 0.01, 1024
# The smallest share of a GPU, and the most GPUs of one machine.
MIN_GPU_SHARE, MAX_GPUS = 0.01, 64


class ProcessResources(Frozen):
    """What one process may use. cpu: cores, memory_bytes: each None for no limit. gpu: devices, or a share of one."""

    cpu: Annotated[float, Bound(gt=0)] | None = None
    memory_bytes: Annotated[int, Bound(gt=0)] | None = None
    gpu: Annotated[float, Bound(ge=0)] = 0.0


@dataclass(frozen=True, slots=True)
class Cores:
    """Cores: a number of them, or thousandths with an `m`."""

    def read(self, value: Value, spot: Spot, report: Report) -> float:
        text = expect_text(value, spot, "a number of cores: 2 or 500m")
        match = MILLICORES.fullmatch(text.text)
        if match is None:
            return Number(MIN_CORES, MAX_CORES).read(value, spot, report)
        cores = int(match[1]) / 1000
        if not MIN_CORES <= cores <= MAX_CORES:
            remedy = f"give {MIN_CORES * 1000:g}m to {MAX_CORES}"
            raise Fault(text.place, f"{spot} is {text.text}", remedy, "out-of-range")
        return cores

    def schema(self) -> JsonSchema:
        return {"anyOf": [Number(MIN_CORES, MAX_CORES).schema(), {"type": "string", "pattern": "^[0-9]{1,7}m$"}]}


@dataclass(frozen=True, slots=True)
class GpuAmount:
    """Whole GPUs, or a share of one."""

    def read(self, value: Value, spot: Spot, report: Report) -> float:
        expected = "a number of GPUs, or a share of one: 1 or 0.5"
        text = expect_text(value, spot, expected)
        if not NUMBER.fullmatch(text.text):
            raise wrong_type(value, spot, expected)
        amount = float(text.text)
        if not (amount == 0 or MIN_GPU_SHARE <= amount <= MAX_GPUS):
            remedy = f"give {MIN_GPU_SHARE:g} to {MAX_GPUS}, or 0 for none"
            raise Fault(text.place, f"{spot} is {text.text}", remedy, "out-of-range")
        if amount > 1 and not amount.is_integer():
            remedy = "give whole GPUs, or a share of one: 2 or 0.5"
            raise Fault(text.place, f"{spot} is {text.text}", remedy, "wrong-value")
        return amount

    def schema(self) -> JsonSchema:
        whole = {"type": "integer", "minimum": 0, "maximum": MAX_GPUS}
        return {"anyOf": [whole, {"type": "number", "minimum": MIN_GPU_SHARE, "maximum": 1}]}


PROCESS_RESOURCES = Record(
    {
        "cpu": Field(type=Cores(), description="Cores, 2 or 500m; compose enforces it"),
        "memory": Field(type=Size(), attribute="memory_bytes", description="Memory; compose enforces it"),
        "gpu": Field(type=GpuAmount(), default=0, description="GPUs, or a share of one: 1 or 0.5"),
    }
)


@dataclass(frozen=True, slots=True)
class Resources:
    """`{cpu: 500m, memory: 512Mi, gpu: 1}`, each for one process."""

    def read(self, value: Value, spot: Spot, report: Report) -> ProcessResources:
        return ProcessResources(**PROCESS_RESOURCES.read(value, spot, report))

    def schema(self) -> JsonSchema:
        return PROCESS_RESOURCES.schema()


RESOURCES_FIELD = Field(type=Resources(), description="What each process may use: {cpu: 500m, memory: 512Mi, gpu: 1}")
IMAGE_FIELD = Field(type=ImageName(), description="Image of its containers; that of the deployment by default")
