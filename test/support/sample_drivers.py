"""Drivers for tests, at the top of a module, so that a process of its own can import them."""

import threading
from dataclasses import dataclass

from runtime.drivers.base import (
    DriverParameters,
    DriverResources,
    DriverResourcesRequest,
    PipelineDriver,
    RestrictedInferenceProcess,
)


@dataclass
class WaitsParameters(DriverParameters):
    factor: float = 1.0
    label: str = ""


class Waits(PipelineDriver):
    """Listens on port `echo`, and waits for its stop."""

    def __init__(self, factor: float = 1.0) -> None:
        self._parameters = WaitsParameters(factor=factor)

    def resources_request(self) -> DriverResourcesRequest:
        return DriverResourcesRequest(ports=["echo"])

    def run(self, inference: RestrictedInferenceProcess, resources: DriverResources) -> None:
        resources.socket("echo")
        resources.announce("echo")
        inference.stopping.wait()

    def stop(self) -> None: ...

    def get_parameters(self) -> WaitsParameters:
        return self._parameters

    def set_parameters(self, parameters: WaitsParameters) -> None:
        if parameters.factor < 0:
            raise ValueError("factor is below 0")
        self._parameters = parameters


class Stress(PipelineDriver):
    """Sends requests one after the other, and is done."""

    def __init__(self, predictions: int = 10, name: str = "Ada") -> None:
        self._predictions = predictions
        self._name = name

    def run(self, inference: RestrictedInferenceProcess, resources: DriverResources) -> None:
        for _ in range(self._predictions):
            inference.predict({"name": self._name}, sid="stress").result(timeout=10)

    def stop(self) -> None: ...


class Broken(Waits):
    """Cannot be made."""

    def __init__(self) -> None:
        raise RuntimeError("no such camera")


class Raises(Waits):
    """Fails as soon as it runs."""

    def run(self, inference: RestrictedInferenceProcess, resources: DriverResources) -> None:
        raise ConnectionError("the camera went away")


class IgnoresStop(Waits):
    """Never returns."""

    def run(self, inference: RestrictedInferenceProcess, resources: DriverResources) -> None:
        threading.Event().wait()


def make_waits(factor: float = 1.0) -> Waits:
    """Make a driver as a function does that sets it up."""
    return Waits(factor)


class Counts(PipelineDriver):
    """Sends numbers under one state id, one after the other, and fails when an answer is out of order."""

    def __init__(self, sid: str, predictions: int) -> None:
        self._sid = sid
        self._predictions = predictions

    def run(self, inference: RestrictedInferenceProcess, resources: DriverResources) -> None:
        for number in range(self._predictions):
            answer = inference.predict({"input": number}, sid=self._sid).result(timeout=10)
            if answer["counter"] != number + 1:
                raise RuntimeError(f"call {number} was counted as {answer['counter']}")

    def stop(self) -> None: ...
