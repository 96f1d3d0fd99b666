"""Source `mqtt`: messages of topics of an MQTT 3.1.1 broker."""

import logging
from collections.abc import AsyncIterator
from functools import partial
from typing import Any

from pydantic import Field, SecretStr

from runtime.drivers import records
from runtime.drivers.components import missing_extra
from runtime.drivers.flow import Item, NotConnected, Source, SourceParameters

try:
    import aiomqtt
except ModuleNotFoundError as error:
    raise missing_extra("mqtt", "aiomqtt") from error

log = logging.getLogger(__name__)

# Name of the metadata that holds a message's topic: `ctx.headers["topic"]` in a handler.
TOPIC_HEADER = "topic"
# Messages that wait here. With QoS 1 or 2 what is beyond comes again after the next connect, as it is not acknowledged.
MAX_WAITING = 1000


class MqttParameters(SourceParameters):
    """Parameters of `mqtt`."""

    host: str = Field(description="Of the broker.")
    port: int = Field(1883, ge=1, le=65535, description="Of the broker.")
    topics: list[str] = Field(min_length=1, description="Topics; `+` and `#` are taken.")
    qos: int = Field(1, ge=0, le=2, description="0: at most once; 1 and 2: acknowledged after the last sink.")
    client_id: str = Field("", description="Of the session that the broker keeps; by default of driver and source.")
    username: str = Field("", description="For the broker.")
    password: SecretStr = Field(SecretStr(""), description="For the broker; write password_env: VARIABLE.")
    tls: bool = Field(False, description="Connect by TLS, with the certificates that this machine trusts.")
    format: records.Format = Field(records.Format.JSON, description="What a message is: json, text or bytes.")


class MqttSource(Source):
    """Sends what is published on topics; `ctx.headers["topic"]` has the topic.

    With QoS 1 or 2 the broker keeps the session while the driver is away, and delivers again what was not done. Needs
    krt-runtime[mqtt].
    """

    parameters = MqttParameters
    params: MqttParameters
    _client: aiomqtt.Client | None = None

    async def open(self) -> None:
        params = self.params
        client = aiomqtt.Client(
            params.host,
            params.port,
            identifier=params.client_id or f"krt-{self.site.stream}-{self.site.driver}-{self.site.ref}",
            username=params.username or None,
            password=params.password.get_secret_value() or None,
            tls_params=aiomqtt.TLSParameters() if params.tls else None,
            clean_session=params.qos == 0,
            max_queued_incoming_messages=MAX_WAITING,
        )
        # aiomqtt acknowledges on arrival; its paho client can leave that to us, but is not public there.
        client._client.manual_ack_set(True)
        try:
            await client.__aenter__()
            self._client = client
            await client.subscribe([(topic, params.qos) for topic in params.topics])
        except aiomqtt.MqttError as error:
            raise NotConnected(f"the broker {params.host}:{params.port} is not there: {error}") from error

    async def read(self) -> AsyncIterator[Any]:
        client = self._client
        assert client is not None
        try:
            async for message in client.messages:
                yield self._item(message, partial(self._acknowledge, client, message))
        except aiomqtt.MqttError as error:
            raise NotConnected(f"the broker {self.params.host} has gone: {error}") from error

    async def close(self) -> None:
        client, self._client = self._client, None
        if client is not None:
            try:
                await client.__aexit__(None, None, None)
            except aiomqtt.MqttError as error:  # it was gone already
                log.debug("the broker does not part: %s", error)

    def _item(self, message: aiomqtt.Message, done: Any) -> Item:
        topic = message.topic.value
        data = message.payload if isinstance(message.payload, bytes) else str(message.payload).encode()
        made = partial(Item, metadata={TOPIC_HEADER: topic}, done=done)
        try:
            return made(records.decode(data, self.params.format))
        except ValueError as error:
            return made(None, fault=f"a message of {topic} {error}")

    def _acknowledge(self, client: aiomqtt.Client, message: aiomqtt.Message, outcome: str) -> None:
        # A message of an earlier connection comes again: its number means nothing in this one.
        if client is self._client:
            client._client.ack(message.mid, message.qos)
