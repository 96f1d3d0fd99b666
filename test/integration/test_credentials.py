"""Every way to be let in by a NATS server, and every way to be refused."""

import logging
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from runtime.bus.base import StreamConfig
from runtime.bus.embedded import EmbeddedServer
from runtime.bus.nats import NatsBus
from runtime.errors import AccessError, SettingsError
from test.support.certificates import Authority, folder_with, tls_options

StartServer = Callable[..., EmbeddedServer]

PASSWORD = "correct-horse"
USERS = {"authorization": {"users": [{"user": "ada", "password": PASSWORD}]}}


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority.make(tmp_path / "pki")


async def is_let_in(server: EmbeddedServer, credentials: Path | None = None, scheme: str = "nats") -> bool:
    """Say whether a connection with these credentials can use JetStream."""
    address = f"{scheme}://127.0.0.1:{server.port}"
    bus = await NatsBus.connect([address], name="test", credentials=credentials, request_timeout_s=2.0, limit_s=3.0)
    try:
        return await bus.ensure_stream(StreamConfig(name="s", subjects=("s",))) == ["stream s: created"]
    finally:
        await bus.close()


# --- let in ---


async def test_user_and_password_of_the_folder(start_nats_server: StartServer, tmp_path: Path) -> None:
    server = start_nats_server(**USERS)

    assert await is_let_in(server, folder_with(tmp_path / "c", user="ada\n", password=f"{PASSWORD}\n"))


async def test_the_servers_certificate_is_checked_by_the_folders_authority(
    start_nats_server: StartServer, authority: Authority, tmp_path: Path
) -> None:
    server = start_nats_server(**tls_options(authority))

    assert await is_let_in(server, folder_with(tmp_path / "c", ca_crt=authority.certificate), "tls")


async def test_a_certificate_of_the_client(
    start_nats_server: StartServer, authority: Authority, tmp_path: Path
) -> None:
    server = start_nats_server(**tls_options(authority, verify=True))
    certificate, key = authority.sign("client")

    assert await is_let_in(
        server, folder_with(tmp_path / "c", ca_crt=authority.certificate, tls_crt=certificate, tls_key=key)
    )


async def test_an_nkey(start_nats_server: StartServer, tmp_path: Path) -> None:
    pytest.importorskip("nkeys", reason="the package nkeys is not installed")
    from test.support import nkey

    pair = nkey.new_pair(nkey.USER)
    server = start_nats_server(authorization={"users": [{"nkey": nkey.public(pair)}]})

    assert await is_let_in(server, folder_with(tmp_path / "c", user_nk=nkey.seed(pair)))


async def test_a_jwt_with_its_seed(start_nats_server: StartServer, tmp_path: Path) -> None:
    pytest.importorskip("nkeys", reason="the package nkeys is not installed")
    from test.support import nkey

    operator = nkey.Operator()
    server = start_nats_server(**operator.server_options())

    assert await is_let_in(server, folder_with(tmp_path / "c", user_creds=operator.creds()))


# --- refused ---


async def refusal_of(server: EmbeddedServer, credentials: Path | None, scheme: str = "nats") -> str:
    """Return the text of a refusal, which has to come at once: no waiting helps."""
    started_s = time.monotonic()
    with pytest.raises(AccessError) as refused:
        await is_let_in(server, credentials, scheme)
    assert time.monotonic() - started_s < 2.5
    return str(refused.value)


async def test_a_wrong_password_is_refused_at_once_and_not_shown(
    start_nats_server: StartServer, tmp_path: Path
) -> None:
    server = start_nats_server(**USERS)

    text = await refusal_of(server, folder_with(tmp_path / "c", user="ada", password="wrong-battery"))

    assert "Authorization Violation" in text and "KRT_NATS_CREDENTIALS" in text
    assert "wrong-battery" not in text


async def test_nobody_is_refused_where_users_are_asked_for(start_nats_server: StartServer) -> None:
    assert "Authorization Violation" in await refusal_of(start_nats_server(**USERS), None)


async def test_a_server_of_another_authority_is_refused(
    start_nats_server: StartServer, authority: Authority, tmp_path: Path
) -> None:
    server = start_nats_server(**tls_options(authority))
    other = Authority.make(tmp_path / "other")

    assert "certificate verify failed" in await refusal_of(
        server, folder_with(tmp_path / "c", ca_crt=other.certificate)
    )


async def test_a_client_without_a_certificate_is_refused_where_one_is_asked_for(
    start_nats_server: StartServer, authority: Authority, tmp_path: Path
) -> None:
    server = start_nats_server(**tls_options(authority, verify=True))

    text = await refusal_of(server, folder_with(tmp_path / "c", ca_crt=authority.certificate))

    assert "certificate" in text.lower()


@pytest.mark.parametrize("scheme", ["nats", "tls"])
async def test_credentials_are_not_sent_in_clear_where_tls_is_asked_for(
    start_nats_server: StartServer, authority: Authority, tmp_path: Path, scheme: str
) -> None:
    server = start_nats_server(**USERS, trace=True, debug=True)
    files: dict[str, str | Path] = {"ca_crt": authority.certificate} if scheme == "nats" else {}
    folder = folder_with(tmp_path / "c", user="ada", password=PASSWORD, **files)

    assert "TLS" in await refusal_of(server, folder, scheme)

    assert "CONNECT" not in server.log_tail(1_000)


async def test_a_user_who_is_removed_while_connected_closes_the_bus(
    start_nats_server: StartServer, tmp_path: Path
) -> None:
    server = start_nats_server(**USERS)
    folder = folder_with(tmp_path / "c", user="ada", password=PASSWORD)
    bus = await NatsBus.connect([server.url], name="test", credentials=folder)

    server.stop_blocking()
    replaced = EmbeddedServer(
        server.store,
        binary=server._binary,
        port=server.port,
        options={"authorization": {"users": [{"user": "bob", "password": "x"}]}},
    )
    replaced.start_blocking()

    try:
        await bus.wait_closed()
    finally:
        await bus.close()
        replaced.stop_blocking()


# --- the folder ---

FAULTS = {
    "no file of ours": ({"notes": "x"}, "holds none of ca.crt, tls.crt"),
    "an empty file": ({"user": "ada", "password": " "}, "password is empty"),
    "a user without a password": ({"user": "ada"}, "user needs a file password"),
    "a password without a user": ({"password": "x"}, "password needs a file user"),
    "two identities": ({"user": "ada", "password": "x", "user_nk": "SU" + "A" * 56}, "user.nk and user each say"),
    "a seed that is none": ({"user_nk": "UABC"}, "user.nk is no seed"),
    "a JWT that is none": ({"user_creds": "ey..."}, "user.creds holds no JWT"),
    "an authority that is none": ({"ca_crt": "-----BEGIN"}, "ca.crt is no certificate"),
    "a certificate without a key": ({"tls_crt": "-----BEGIN"}, "tls.crt and tls.key belong together"),
}


@pytest.mark.parametrize(("files", "fault"), FAULTS.values(), ids=FAULTS.keys())
async def test_a_fault_of_the_folder_is_named_before_anything_is_connected(
    tmp_path: Path, files: dict[str, str], fault: str
) -> None:
    with pytest.raises(SettingsError, match=fault):
        await NatsBus.connect(
            ["nats://127.0.0.1:1"], name="test", credentials=folder_with(tmp_path / "c", **files), limit_s=1.0
        )


async def test_every_fault_of_the_folder_is_told(tmp_path: Path) -> None:
    folder = folder_with(tmp_path / "c", user="ada", tls_key="x", user_creds=" ")

    with pytest.raises(SettingsError) as refused:
        await NatsBus.connect(["nats://127.0.0.1:1"], name="test", credentials=folder)

    assert len(refused.value.problems) == 3


async def test_a_folder_that_is_missing_is_told(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="expected a folder"):
        await NatsBus.connect(["nats://127.0.0.1:1"], name="test", credentials=tmp_path / "none")


async def test_a_key_that_belongs_to_another_certificate_is_told(authority: Authority, tmp_path: Path) -> None:
    certificate, _ = authority.sign("one")
    _, key = authority.sign("two")

    with pytest.raises(SettingsError, match=r"tls\.key does not belong to tls\.crt"):
        await NatsBus.connect(
            ["nats://127.0.0.1:1"],
            name="test",
            credentials=folder_with(tmp_path / "c", tls_crt=certificate, tls_key=key),
        )


async def test_secrets_that_others_can_read_are_warned_of(
    start_nats_server: StartServer, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    server = start_nats_server(**USERS)
    folder = folder_with(tmp_path / "c", user="ada", password=PASSWORD)
    (folder / "password").chmod(0o644)
    (folder / "user").chmod(0o644)

    with caplog.at_level(logging.WARNING):
        assert await is_let_in(server, folder)

    warnings = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
    assert len(warnings) == 1 and "password can be read by every user" in warnings[0]
    assert PASSWORD not in caplog.text


# --- the address ---


async def test_the_user_of_an_address_holds_for_its_whole_cluster_and_is_not_shown(
    start_nats_server: StartServer, caplog: pytest.LogCaptureFixture
) -> None:
    server = start_nats_server(**USERS)

    bus = await NatsBus.connect([f"nats://ada:{PASSWORD}@127.0.0.1:{server.port}"], name="test", limit_s=3.0)

    assert bus._connection.client.options["user"] == "ada"
    assert PASSWORD not in caplog.text
    await bus.close()
