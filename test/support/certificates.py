"""Certificates of a test's own, made by openssl: an authority, and what it has signed for a server and a client."""

import secrets
import subprocess
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

# Elliptic curves: making an RSA key takes a second.
_KEY = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]


@dataclass(frozen=True, slots=True)
class Authority:
    """A certificate authority; `folder` holds everything that it has signed."""

    folder: Path
    name: str

    @classmethod
    def make(cls, folder: Path, name: str = "ca", *, valid: tuple[datetime, datetime] | None = None) -> "Authority":
        folder.mkdir(parents=True, exist_ok=True)
        authority = cls(folder, name)
        _openssl(
            "req", "-x509", *_KEY, "-days", "1", "-subj", f"/CN={name}",
            "-keyout", str(folder / f"{name}.key"), "-out", str(authority.certificate),
        )  # fmt: skip
        if valid is not None:
            authority._renew(*valid)
        return authority

    @property
    def certificate(self) -> Path:
        return self.folder / f"{self.name}.crt"

    def sign(self, subject: str, *, valid: tuple[datetime, datetime] | None = None) -> tuple[Path, Path]:
        """Return certificate and key for 127.0.0.1, usable by servers and clients, for a day or between two times."""
        certificate, key = self.folder / f"{subject}.crt", self.folder / f"{subject}.key"
        request = self.folder / f"{subject}.csr"
        extensions = self.folder / "extensions"
        extensions.write_text("subjectAltName=IP:127.0.0.1,DNS:localhost\n")
        _openssl("req", "-new", *_KEY, "-subj", f"/CN={subject}", "-keyout", str(key), "-out", str(request))
        if valid is not None:
            self._sign_between(request, certificate, extensions, *valid)
            return certificate, key
        _openssl(
            "x509", "-req", "-in", str(request), "-days", "1", "-CAcreateserial", "-extfile", str(extensions),
            "-CA", str(self.certificate), "-CAkey", str(self.folder / f"{self.name}.key"), "-out", str(certificate),
        )  # fmt: skip
        return certificate, key

    def _renew(self, begin: datetime, end: datetime) -> None:
        """Put a certificate for another time in the place of the authority's own."""
        request, renewed = self.folder / f"{self.name}.csr", self.folder / "renewed.crt"
        extensions = self.folder / "extensions"
        extensions.write_text("basicConstraints=critical,CA:true\n")
        key = str(self.folder / f"{self.name}.key")
        _openssl("req", "-new", "-key", key, "-subj", f"/CN={self.name}", "-out", str(request))
        self._sign_between(request, renewed, extensions, begin, end)
        renewed.replace(self.certificate)

    def _sign_between(self, request: Path, certificate: Path, extensions: Path, begin: datetime, end: datetime) -> None:
        """Sign for any time: `openssl x509` begins all that it signs now."""
        (self.folder / "index").touch()
        (self.folder / "serial").write_text(f"{secrets.randbits(60) | 1 << 60:X}\n")
        configuration = self.folder / "ca.conf"
        configuration.write_text(
            f"[ca]\ndefault_ca=own\n[own]\ndatabase={self.folder}/index\nserial={self.folder}/serial\n"
            f"new_certs_dir={self.folder}\ndefault_md=sha256\npolicy=any\n[any]\ncommonName=supplied\n"
        )
        _openssl(
            "ca", "-batch", "-config", str(configuration), "-in", str(request), "-out", str(certificate),
            "-cert", str(self.certificate), "-keyfile", str(self.folder / f"{self.name}.key"),
            "-extfile", str(extensions), "-notext",
            "-startdate", f"{begin:%Y%m%d%H%M%SZ}", "-enddate", f"{end:%Y%m%d%H%M%SZ}",
        )  # fmt: skip


def tls_options(authority: Authority, *, verify: bool = False) -> dict[str, object]:
    certificate, key = authority.sign("server")
    return {
        "tls": {
            "cert_file": str(certificate),
            "key_file": str(key),
            "ca_file": str(authority.certificate),
            "verify": verify,
        }
    }


def folder_with(folder: Path, **files: str | Path) -> Path:
    """Write a credentials folder; the names' underscores stand for dots, and a path is copied."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        file = folder / name.replace("_", ".")
        file.write_text(content.read_text() if isinstance(content, Path) else content)
        file.chmod(0o600)
    return folder


def _openssl(*arguments: str) -> None:
    subprocess.run(["openssl", *arguments], check=True, capture_output=True, timeout=30)
