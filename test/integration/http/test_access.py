"""Who is let in by an HTTP driver: tokens with scopes, certificates, and what stays open."""

import base64
import logging
from pathlib import Path

import httpx
import pytest

from runtime.drivers.fastapi_client import FastAPIClient, FastAPIClientError
from runtime.drivers.fastapi_driver import FastAPIDriver
from runtime.drivers.runner import DriverTerms
from runtime.errors import ConfigError
from test.support.certificates import Authority
from test.support.drivers import hosted
from test.support.http import Web, serving
from test.support.waiting import until

VARIABLE = "HTTP_TOKEN"


def bearer(token: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {token}"}


def with_token() -> FastAPIDriver:
    return FastAPIDriver(token_env=VARIABLE)


async def statuses(web: Web, headers: dict[str, str]) -> list[int]:
    """Return how health, schema and a request are answered."""
    answers = [
        await web.http.get("/health", headers=headers),
        await web.http.get("/schema", headers=headers),
        await web.http.post("/predict", json=1, headers=headers),
    ]
    return [answer.status_code for answer in answers]


async def test_only_a_known_token_is_let_in_and_health_is_open(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(VARIABLE, "s3cret read:onlooker run:sender")

    async with serving(with_token) as web:
        assert await statuses(web, {}) == [200, 401, 401]
        assert await statuses(web, bearer("s3cre")) == [200, 401, 401]
        assert await statuses(web, bearer("read:onlooker")) == [200, 401, 401]
        assert await statuses(web, bearer("s3cret")) == [200, 200, 200]
        assert await statuses(web, bearer("onlooker")) == [200, 200, 403]
        assert await statuses(web, bearer("sender")) == [200, 403, 200]


async def test_a_browser_may_give_the_token_as_password(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(VARIABLE, "s3cret")

    async with serving(with_token) as web:
        asked = await web.http.get("/docs")
        basic = base64.b64encode(b"anyone:s3cret").decode()
        shown = await web.http.get("/docs", headers={"Authorization": f"Basic {basic}"})
        broken = await web.http.get("/docs", headers={"Authorization": "Basic %%%"})

    assert (asked.status_code, shown.status_code, broken.status_code) == (401, 200, 401)
    assert asked.headers["WWW-Authenticate"].startswith("Bearer")


@pytest.mark.parametrize("value", [None, "  "])
def test_a_variable_without_a_token_is_named(monkeypatch: pytest.MonkeyPatch, value: str | None) -> None:
    if value is None:
        monkeypatch.delenv(VARIABLE, raising=False)
    else:
        monkeypatch.setenv(VARIABLE, value)

    with pytest.raises(ConfigError, match=VARIABLE):
        with_token()


async def test_a_client_without_the_right_token_gets_an_error_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(VARIABLE, "s3cret")

    async with serving(with_token) as web, FastAPIClient(port=web.port, token="wrong") as wrong:
        with pytest.raises(FastAPIClientError) as caught:
            await wrong.apredict(1)
        async with FastAPIClient(port=web.port, token="s3cret") as right:
            assert await right.apredict(1) == 1

    assert (caught.value.status, caught.value.outcome) == (401, "auth")


async def test_tls_from_a_credentials_folder(tmp_path: Path) -> None:
    authority = Authority.make(tmp_path / "authority")
    folder = credentials(tmp_path / "server", authority)

    async with (
        serving(lambda: FastAPIDriver(tls=folder)) as web,
        FastAPIClient(port=web.port, ca=authority.certificate) as client,
    ):
        assert await client.apredict({"a": 1}) == {"a": 1}
        assert web.runner.services[0].protocol == "https"
        with pytest.raises(httpx.HTTPError):
            await httpx.AsyncClient().get(f"http://127.0.0.1:{web.port}/health")


async def test_with_an_authority_clients_have_to_show_a_certificate(tmp_path: Path) -> None:
    authority = Authority.make(tmp_path / "authority")
    folder = credentials(tmp_path / "server", authority)
    (folder / "ca.crt").write_bytes(authority.certificate.read_bytes())
    own = authority.sign("client")

    async with serving(lambda: FastAPIDriver(tls=folder)) as web:
        async with FastAPIClient(port=web.port, ca=authority.certificate, certificate=own) as client:
            assert await client.apredict(1) == 1
        async with FastAPIClient(port=web.port, ca=authority.certificate) as stranger:
            with pytest.raises(FastAPIClientError) as caught:
                await stranger.apredict(1)

    assert (caught.value.status, caught.value.outcome) == (0, "unavailable")


def test_credentials_that_cannot_be_used_are_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"no tls\.crt"):
        FastAPIDriver(tls=tmp_path)

    (tmp_path / "tls.crt").write_text("no certificate")
    (tmp_path / "tls.key").write_text("no key")
    with pytest.raises(ConfigError, match=r"tls\.crt with tls\.key"):
        FastAPIDriver(tls=tmp_path)
    [problem] = FastAPIDriver.check({"tls": str(tmp_path)})
    assert (problem.path, "tls.crt with tls.key" in problem.what) == (("tls",), True)


async def test_a_driver_that_is_open_to_the_network_says_so(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING)

    async with hosted(FastAPIDriver, terms=DriverTerms(listen="0.0.0.0")) as runner:
        await until(lambda: bool(runner.services))

    [record] = [record for record in caplog.records if getattr(record, "action", "") == "open-driver"]
    assert "without a token and TLS" in record.getMessage()


def credentials(folder: Path, authority: Authority) -> Path:
    """Return a folder with certificate and key of a server."""
    folder.mkdir()
    certificate, key = authority.sign("server")
    (folder / "tls.crt").write_bytes(certificate.read_bytes())
    (folder / "tls.key").write_bytes(key.read_bytes())
    return folder
