"""Certificates of a test's own, made by openssl: an authority, and what it has signed for a server and a client."""

import subprocess
from dataclasses import dataclass
from pathlib import Path

# Elliptic curves: making an RSA key takes a second.
_KEY = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]


@dataclass(frozen=True, slots=True)
class Authority:
    """A certificate authority; `folder` holds everything that it has signed."""

    folder: Path
    name: str

    @classmethod
    def make(cls, folder: Path, name: str = "ca") -> "Authority":
        folder.mkdir(parents=True, exist_ok=True)
        authority = cls(folder, name)
        _openssl(
            "req", "-x509", *_KEY, "-days", "1", "-subj", f"/CN={name}",
            "-keyout", str(folder / f"{name}.key"), "-out", str(authority.certificate),
        )  # fmt: skip
        return authority

    @property
    def certificate(self) -> Path:
        return self.folder / f"{self.name}.crt"

    def sign(self, subject: str) -> tuple[Path, Path]:
        """Return certificate and key for 127.0.0.1, usable by servers and clients."""
        certificate, key = self.folder / f"{subject}.crt", self.folder / f"{subject}.key"
        request = self.folder / f"{subject}.csr"
        extensions = self.folder / "extensions"
        extensions.write_text("subjectAltName=IP:127.0.0.1,DNS:localhost\n")
        _openssl("req", "-new", *_KEY, "-subj", f"/CN={subject}", "-keyout", str(key), "-out", str(request))
        _openssl(
            "x509", "-req", "-in", str(request), "-days", "1", "-CAcreateserial", "-extfile", str(extensions),
            "-CA", str(self.certificate), "-CAkey", str(self.folder / f"{self.name}.key"), "-out", str(certificate),
        )  # fmt: skip
        return certificate, key


def _openssl(*arguments: str) -> None:
    subprocess.run(["openssl", *arguments], check=True, capture_output=True, timeout=30)
