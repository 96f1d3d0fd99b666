"""The base class of the measured model, for its host to find it by."""

from abc import ABC, abstractmethod
from typing import Any


class ModelBase(ABC):
    @abstractmethod
    def predict(self, payload: dict[str, Any]) -> dict[str, Any]: ...
