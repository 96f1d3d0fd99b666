"""Measurements in InfluxDB: line protocol over the version 2 API, which 1.8 answers too.

Sends batches and judges the answers; queue, thread and patience are those of `point_queue.py`. A batch that is sent
twice changes nothing: a point is the same point by its measurement, tags and time.
"""

import re
from collections.abc import Sequence
from urllib.parse import unquote, urlsplit

import urllib3
from influxdb_client.client.influxdb_client import InfluxDBClient
from influxdb_client.client.write.point import Point as LinePoint
from influxdb_client.rest import ApiException
from influxdb_client.service.write_service import WriteService

from runtime.durations import retry_after_s
from runtime.errors import ConfigError, StoreError, StoreUnavailableError
from runtime.stores.base import Point
from runtime.stores.measurement import PRECISION_NS
from runtime.stores.point_queue import BATCH_WAIT_S, MAX_QUEUED, QueuedPoints

# How long one request may take, in seconds. Closing does not wait for it, see `QueuedPoints`.
REQUEST_TIMEOUT_S = 5.0
# A batch that would have less time than this before the end of closing is not begun (seconds).
MIN_BATCH_S = 0.1
# How often one batch is halved to set bad points apart: three of them in 1,000 are found alone, of more some neighbours
# are lost with them. A bound, for a batch of bad points only would become 2,000 requests.
MAX_HALVINGS = 32
# Longest piece of a server's answer in an error.
MAX_REASON_CHARS = 200

# Statuses of a server that is busy, starting, or behind a proxy that does not reach it.
_PASSING = frozenset({408, 429, 500, 502, 503, 504})
# Statuses that mean the lines (a type conflict, a line that does not parse, too many bytes) and not the request.
_BAD_LINES = frozenset({400, 413, 422})
# Both versions store the good points of a batch and say how many they did not store.
_PARTIAL_WRITE = re.compile(r"partial write: .*\bdropped=([1-9]\d*)", re.DOTALL)
# A line that does not parse is quoted in the answer; its values do not belong into a log.
_QUOTED_LINE = re.compile(r"unable to parse '.*?': ", re.DOTALL)


class _RefusedLinesError(StoreError):
    """The server does not take some of these lines; the request was in order.

    count: how many it has dropped, the others being stored; 0 when it does not say, and any may be stored.
    """

    def __init__(self, message: str, *, count: int) -> None:
        super().__init__(message)
        self.count = count


class InfluxPointStore(QueuedPoints):
    """See `PointStore`. `query` is left to InfluxDB's own tools.

    url: `http[s]://[user:password@]host[:port][/path]`; a user part stands in for a missing token, as in 1.8.
    token, org: empty for a 1.8 without authentication. bucket: in 1.8 `database` or `database/retention policy`.
    Raises ConfigError for a URL without a host or with a port that is no number.
    """

    def __init__(
        self,
        url: str,
        *,
        token: str,
        org: str,
        bucket: str,
        max_queued: int = MAX_QUEUED,
        batch_wait_s: float = BATCH_WAIT_S,
        request_timeout_s: float = REQUEST_TIMEOUT_S,
    ) -> None:
        super().__init__(
            thread_name="influx-points",
            max_queued=max_queued,
            batch_wait_s=batch_wait_s,
            last_attempt_s=MIN_BATCH_S,
        )
        self._url, user_part = _split_url(url)
        # 1.8 ignores the organization, but the client insists on one.
        self._org = org or "-"
        self._bucket = bucket
        self._request_timeout_ms = round(request_timeout_s * 1_000)
        self._client = InfluxDBClient(self._url, token=token or user_part, org=self._org)
        self._service = WriteService(self._client.api_client)  # type: ignore[no-untyped-call]  # the client is untyped

    async def query(self, measurement: str, *, limit: int = 0) -> list[Point]:
        raise StoreError(
            f"measurements are not read back from InfluxDB: look for '{measurement}' in the bucket '{self._bucket}'"
            f" of {self._url}, with InfluxDB's own interface or command line"
        )

    def _write(self, batch: Sequence[Point], *, once: bool = False) -> int:
        lines = [line for point in batch if (line := self._line(point))]
        return len(batch) - len(lines) + self._send(lines)

    def _release(self) -> None:
        self._client.close()  # type: ignore[no-untyped-call]  # the client is untyped

    def _line(self, point: Point) -> bytes:
        """Return the point in line protocol, b"" for one that has no form there."""
        try:
            return line_protocol(point)
        except ValueError as error:
            self._warn("are refused", error)
            return b""

    def _send(self, lines: list[bytes]) -> int:
        """Write the lines, halving what the server refuses; returns how many it did not take."""
        parts, refused, halvings = [lines] if lines else [], 0, 0
        while parts:
            part = parts.pop()
            try:
                self._post(part)
            except _RefusedLinesError as error:
                self._warn("are refused", error)
                if error.count:
                    refused += min(error.count, len(part))
                elif len(part) == 1 or halvings == MAX_HALVINGS:
                    refused += len(part)
                else:
                    halvings += 1
                    middle = len(part) // 2
                    parts += [part[middle:], part[:middle]]
        return refused

    def _post(self, lines: list[bytes]) -> None:
        """Write the lines in one request.

        Raises StoreUnavailableError (worth a retry), _RefusedLinesError, or StoreError when a person has to act.
        """
        try:
            self._service.post_write(  # type: ignore[no-untyped-call]  # the client is untyped
                self._org,
                self._bucket,
                b"\n".join(lines),
                precision=PRECISION_NS,
                _request_timeout=self._request_timeout_ms,
            )
        except ApiException as error:
            raise self._judge(error) from error
        except (urllib3.exceptions.HTTPError, UnicodeDecodeError) as error:
            # Not its text: it repeats what the class says, at length and with addresses of objects.
            raise StoreUnavailableError(f"{self._url} gives no answer ({type(error).__name__})") from error

    def _judge(self, error: ApiException) -> StoreError:
        """Return the error of our tree for an answer that is no success."""
        if not error.status:
            return StoreUnavailableError(f"{self._url}: no TLS connection: {_one_line(error.reason)}")
        answer = f"{self._url} answers {error.status}: {_one_line(error.message)}"
        if error.status in _PASSING:
            return StoreUnavailableError(answer, retry_after_s=retry_after_s(error.retry_after))
        if error.status in _BAD_LINES:
            partial = _PARTIAL_WRITE.search(str(error.message))
            return _RefusedLinesError(answer, count=int(partial[1]) if partial else 0)
        return StoreError(f"{answer}; check KRT_INFLUX_URI, KRT_INFLUX_TOKEN, KRT_INFLUX_ORG and KRT_INFLUX_BUCKET")


def line_protocol(point: Point) -> bytes:
    """Return the point in line protocol, its time in nanoseconds.

    Raises ValueError for a point that has no form there: a value of another type, no finite value at all, half a
    surrogate pair, or a measurement that begins with `#` (a comment, which the server would skip in silence).
    """
    if point.measurement.startswith("#"):
        raise ValueError(f"a measurement may not begin with '#': {point.measurement!r}")
    record = {"measurement": point.measurement, "tags": point.tags, "fields": point.fields, "time": point.time_ns}
    text = LinePoint.from_dict(record).to_line_protocol()
    if not text:
        raise ValueError(f"a point of {point.measurement!r} has no finite value")
    return bytes(text.encode())


def _one_line(reason: object) -> str:
    """Return what a server says without quoted lines, line breaks and excess."""
    text = _QUOTED_LINE.sub("unable to parse a line: ", str(reason))
    return " ".join(text.split())[:MAX_REASON_CHARS]


def _split_url(url: str) -> tuple[str, str]:
    """Return the URL without user part and query, and the user part `user:password`. Errors show neither."""
    try:
        parts = urlsplit(url)
        usable = bool(parts.hostname) and parts.port != 0
    except ValueError:  # its text may show the password, so it is no cause of ours either
        usable = False
    if not usable:
        raise ConfigError("KRT_INFLUX_URI needs a host and, if any, a port that is a number: http(s)://host:8086")
    user_part, _, host = parts.netloc.rpartition("@")
    return f"{parts.scheme}://{host}{parts.path.rstrip('/')}", unquote(user_part)
