"""Sink `influx`: each output as a point of a measurement."""

from collections.abc import Mapping
from datetime import datetime
from typing import Any, Literal

from pydantic import Field, SecretStr, field_validator

from runtime.drivers.flow import Item, NotConnected, Sink, SinkParameters
from runtime.errors import StoreUnavailableError
from runtime.stores.base import Point
from runtime.stores.measurement import build_point
from runtime.stores.open import open_points
from runtime.stores.point_queue import QueuedPoints


class InfluxParameters(SinkParameters):
    """Parameters of `influx`."""

    uri: SecretStr = Field(
        description="http[s]://host:8086 or sqlite:///PATH; write uri_env: VARIABLE if it is secret."
    )
    token: SecretStr = Field(SecretStr(""), description="Of InfluxDB; write token_env: VARIABLE.")
    org: str = Field("", description="Of InfluxDB 2.")
    bucket: str = Field("krt", description="Of InfluxDB.")
    measurement: str = Field(min_length=1, description="Name of the points.")
    fields: list[str] = Field(default_factory=list, description="Keys of an output; by default all that have a form.")
    tags: list[str] = Field(default_factory=list, description="Keys of an output that become tags.")
    time: str = Field("", description="Key of an output with its time: ISO 8601, or a number of `precision`.")
    precision: Literal["s", "ms", "us", "ns"] = Field("ns", description="Of times.")

    @field_validator("uri")
    @classmethod
    def _check(cls, uri: SecretStr) -> SecretStr:
        if not uri.get_secret_value().startswith(("http://", "https://", "sqlite:///")):
            raise ValueError("write http://HOST:PORT, https://HOST:PORT or sqlite:///PATH")
        return uri


class InfluxSink(Sink):
    """Writes each output, which has to be a JSON object, as one point, and waits for the server.

    With `time` a repeat after a crash is the same point; without it, the time is that of writing.
    """

    parameters = InfluxParameters
    params: InfluxParameters
    _store: QueuedPoints | None = None

    def open(self) -> None:
        self._store = open_points(
            self.params.uri.get_secret_value(),
            token=self.params.token.get_secret_value(),
            org=self.params.org,
            bucket=self.params.bucket,
        )

    def write(self, outputs: Any, item: Item) -> None:
        assert self._store is not None
        point = self._point(outputs)
        try:
            self._store.write_through([point])
        except StoreUnavailableError as error:
            raise NotConnected(str(error), retry_after_s=error.retry_after_s) from error

    def close(self) -> None:
        store, self._store = self._store, None
        if store is not None:
            store.release()

    def _point(self, outputs: Any) -> Point:
        """Return the point of an output. Raises TypeError, ValueError."""
        if not isinstance(outputs, Mapping):
            raise TypeError(f"a point is made of a JSON object, and not of {type(outputs).__name__}")
        params = self.params
        named = params.fields or [key for key in outputs if key not in (*params.tags, params.time)]
        scalars = {key: outputs[key] for key in named if isinstance(outputs.get(key), (bool, int, float, str))}
        if not scalars:
            raise ValueError(f"the output has no number, boolean or text under {', '.join(named) or 'any key'}")
        return build_point(
            params.measurement,
            scalars,
            {key: outputs.get(key) for key in params.tags},
            _moment(outputs.get(params.time)) if params.time else None,
            params.precision,
            runtime_tags={},
            now_ns=self.site.clock.time_ns(),
        )


def _moment(value: Any) -> datetime | int | None:
    return datetime.fromisoformat(value) if isinstance(value, str) else value
