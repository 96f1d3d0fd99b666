from dataclasses import dataclass

from runtime.drivers.base import DriverParameters, PipelineDriver, ValueProblem


@dataclass
class CameraParameters(DriverParameters):
    fps: int = 10


class Camera(PipelineDriver):
    @classmethod
    def check(cls, values):
        if not values["url"].startswith("rtsp://"):
            return [ValueProblem(("url",), f"{values['url']} is no address of a camera; write rtsp://…")]
        return []

    def __init__(self, url, zoom=1):
        self._parameters = CameraParameters()

    def run(self, inference, resources): ...

    def stop(self): ...

    def get_parameters(self) -> CameraParameters:
        return self._parameters
