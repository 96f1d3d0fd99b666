"""Folders of credentials for model clusters: every fault is told with its file and what to do."""

import logging
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import pytest

from runtime.errors import ConfigError, CredentialsError
from runtime.models.credentials import SecureCredentials
from test.support.certificates import Authority, folder_with

PAST = datetime(2020, 1, 1, tzinfo=UTC), datetime(2021, 1, 1, tzinfo=UTC)
FUTURE = datetime(2090, 1, 1, tzinfo=UTC), datetime(2091, 1, 1, tzinfo=UTC)

Issue = Callable[..., Path]


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority.make(tmp_path_factory.mktemp("pki"))


@pytest.fixture(scope="module")
def other(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority.make(tmp_path_factory.mktemp("other"))


@pytest.fixture
def issue(authority: Authority, tmp_path: Path) -> Issue:
    """Make a folder as it should be, but for the files given; None leaves one out."""

    def make(**changes: str | Path | None) -> Path:
        certificate, key = authority.sign("client")
        files = {"ca_crt": authority.certificate, "tls_crt": certificate, "tls_key": key, **changes}
        return folder_with(tmp_path / "issued", **{name: text for name, text in files.items() if text is not None})

    return make


def faults_of(folder: Path) -> tuple[str, ...]:
    with pytest.raises(CredentialsError) as refused:
        SecureCredentials.from_directory(path=str(folder))
    assert isinstance(refused.value, ConfigError)
    assert str(refused.value) == "\n".join(refused.value.problems)
    return refused.value.problems


def test_a_folder_as_it_should_be_is_taken(issue: Issue) -> None:
    folder = issue()

    assert SecureCredentials.from_directory(folder).path == folder


def test_a_folder_is_the_same_from_wherever_the_process_goes(issue: Issue, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = issue()
    monkeypatch.chdir(folder.parent)

    credentials = SecureCredentials.from_directory(path="issued")

    assert credentials.path == folder


def test_a_user_may_be_there_besides(issue: Issue) -> None:
    assert SecureCredentials.from_directory(issue(user="ada", password="secret")).path.is_dir()


@pytest.mark.parametrize(
    ("changes", "fault"),
    [
        ({"ca_crt": None}, "ca.crt is missing; copy it"),
        ({"tls_key": None}, "tls.key is missing; copy it"),
        ({"tls_crt": ""}, "tls.crt is empty; fill it"),
        ({"ca_crt": "no PEM"}, "ca.crt is no certificate; store it as PEM"),
        ({"tls_crt": "no PEM"}, "tls.crt with tls.key cannot be used: "),
        ({"tls_key": "no PEM"}, "tls.crt with tls.key cannot be used: "),
        ({"user": "ada", "password": "x", "user_nk": "SU" + "A" * 56}, "user.nk and user each say who this is; keep"),
        ({"user": "ada"}, "user needs a file password beside it"),
        ({"user_creds": "ey..."}, "user.creds holds no JWT with its seed; copy"),
    ],
)
def test_a_fault_is_told_with_its_file_and_what_to_do(issue: Issue, changes: dict[str, str | None], fault: str) -> None:
    folder = issue(**changes)

    assert any(told.startswith(f"{folder}: {fault}") for told in faults_of(folder))


def test_what_is_no_folder_is_told(tmp_path: Path) -> None:
    assert faults_of(tmp_path / "none") == (
        f"{tmp_path / 'none'}: is no folder; give the one that holds the issued certificate",
    )


def test_a_file_that_cannot_be_read_is_told(issue: Issue) -> None:
    folder = issue(tls_key=None)
    (folder / "tls.key").mkdir()

    assert any("tls.key cannot be read: Is a directory; it has to be" in told for told in faults_of(folder))


def test_all_faults_are_told_together(issue: Issue) -> None:
    folder = issue(ca_crt=None, tls_key=None, user="ada")

    assert [told.removeprefix(f"{folder}: ").split(";")[0] for told in faults_of(folder)] == [
        "ca.crt is missing",
        "tls.key is missing",
        "user needs a file password beside it",
    ]


def test_a_key_of_another_certificate_is_told(issue: Issue, authority: Authority) -> None:
    folder = issue(tls_key=authority.sign("another")[1])

    assert faults_of(folder) == (
        f"{folder}: tls.key does not belong to tls.crt; copy both from where the certificate was issued",
    )


@pytest.mark.parametrize(
    ("valid", "fault"),
    [
        (PAST, "tls.crt has expired; have a new certificate issued"),
        (FUTURE, "tls.crt is not valid yet; correct this machine's clock, or wait"),
    ],
)
def test_a_certificate_out_of_its_time_is_told(
    issue: Issue, authority: Authority, valid: tuple[datetime, datetime], fault: str
) -> None:
    certificate, key = authority.sign(f"valid-{valid[0].year}", valid=valid)
    folder = issue(tls_crt=certificate, tls_key=key)

    assert faults_of(folder) == (f"{folder}: {fault}",)


def test_a_certificate_of_another_authority_is_told(issue: Issue, other: Authority) -> None:
    folder = issue(ca_crt=other.certificate)

    [fault] = faults_of(folder)

    assert fault.startswith(f"{folder}: tls.crt is not signed by an authority in ca.crt (")


def test_a_file_of_authorities_without_one_is_told(issue: Issue, authority: Authority) -> None:
    certificate, _ = authority.sign("leaf")
    folder = issue(ca_crt=certificate)

    [fault] = faults_of(folder)

    assert fault.startswith(f"{folder}: ca.crt holds no certificate of an authority; copy it")


@pytest.mark.parametrize(("valid", "fault"), [(PAST, "ca.crt has expired"), (FUTURE, "ca.crt is not valid yet")])
def test_an_authority_out_of_its_time_is_told(
    issue: Issue, tmp_path: Path, valid: tuple[datetime, datetime], fault: str
) -> None:
    root = Authority.make(tmp_path / "root", valid=valid)
    certificate, key = root.sign("client")
    folder = issue(ca_crt=root.certificate, tls_crt=certificate, tls_key=key)

    [told] = faults_of(folder)

    assert told.startswith(f"{folder}: {fault}; ")


def test_a_key_that_others_can_read_is_warned_of(issue: Issue, caplog: pytest.LogCaptureFixture) -> None:
    folder = issue()
    (folder / "tls.key").chmod(0o644)

    with caplog.at_level(logging.WARNING):
        SecureCredentials.from_directory(folder)

    [warning] = caplog.records
    assert f"{folder}/tls.key can be read by every user" in warning.getMessage()


def test_no_secret_is_shown(issue: Issue) -> None:
    folder = issue(user="ada", password="correct-horse", user_nk="SUAAAA")

    assert not any("correct-horse" in fault or "SUAAAA" in fault for fault in faults_of(folder))
