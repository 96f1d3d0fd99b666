"""Sink `mongo`: each output as a document, through the writer or straight into a store."""

import hashlib
from collections.abc import Mapping
from typing import Any

from pydantic import Field, SecretStr, field_validator

from runtime.drivers.flow import Item, NotConnected, Sink, SinkParameters, record_of
from runtime.drivers.records import json_bytes, json_of
from runtime.errors import DocumentError, StoreUnavailableError
from runtime.spec import names
from runtime.stores.base import DocumentStore, Insert
from runtime.stores.documents import DocumentClient
from runtime.stores.json_values import plain
from runtime.stores.open import open_documents


class MongoParameters(SinkParameters):
    """Parameters of `mongo`."""

    collection: str = Field(min_length=1, description="Where documents go.")
    uri: SecretStr = Field(
        SecretStr(""), description="mongodb://… or sqlite:///…, past the writer; write uri_env: VARIABLE."
    )
    database: str = Field("data", description="With uri.")
    writer: str = Field(names.WRITER_SUBJECT, description="Subject of the writer, without uri.")
    with_item: bool = Field(False, description="Store {request_id, source, state_id, metadata, …, output}.")

    @field_validator("uri")
    @classmethod
    def _check(cls, uri: SecretStr) -> SecretStr:
        text = uri.get_secret_value()
        if text and not text.startswith(("mongodb://", "mongodb+srv://", "sqlite:///")):
            raise ValueError("write mongodb://…, mongodb+srv://… or sqlite:///PATH")
        return uri


class MongoSink(Sink):
    """Stores each output as a document, under an id made of the request: a repeat changes nothing.

    By default it sends to the workflow's writer, as `ctx.db.save` does; with `uri` it writes by itself. An output that
    is no JSON object is stored as {"output": …}.
    """

    parameters = MongoParameters
    params: MongoParameters
    _store: DocumentStore | None = None
    _client: DocumentClient | None = None

    async def open(self) -> None:
        uri = self.params.uri.get_secret_value()
        if uri:
            self._store = open_documents(uri, self.params.database)
        else:
            bus = self.site.bus
            self._client = DocumentClient(
                self._request,
                self.params.writer,
                self.site.clock,
                id_header=names.DOCUMENT_ID_HEADER,
                limit_bytes=lambda: bus.max_payload_bytes,
            )

    async def write(self, outputs: Any, item: Item) -> None:
        document = _document(record_of(outputs, item) if self.params.with_item else outputs)
        document_id = hashlib.sha256(f"{item.request_id}\0{item.number}".encode()).hexdigest()[:24]
        try:
            if self._client is not None:
                await self._client.save(self.params.collection, document, document_id=document_id)
            elif self._store is not None:
                await self._insert(self._store, document, document_id)
        except StoreUnavailableError as error:
            raise NotConnected(str(error), retry_after_s=error.retry_after_s) from error

    async def close(self) -> None:
        store, self._store, self._client = self._store, None, None
        if store is not None:
            await store.close()

    async def _insert(self, store: DocumentStore, document: dict[str, Any], document_id: str) -> None:
        insert = Insert(
            collection=self.params.collection, document=plain(document, DocumentError), document_id=document_id
        )
        (failure,) = await store.insert_many([insert])
        if failure is not None:
            raise failure

    async def _request(self, subject: str, body: bytes, headers: Mapping[str, str], timeout_s: float) -> bytes:
        return (await self.site.bus.request(subject, body, timeout_s=timeout_s, headers=headers)).data


def _document(value: Any) -> dict[str, Any]:
    """Return an output as a document: with what JSON has no form for in the form that our JSON has."""
    known = json_of(json_bytes(value))
    return known if isinstance(known, dict) else {"output": known}
