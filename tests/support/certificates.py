"""Self-signed certificates for tests."""

from __future__ import annotations

import datetime
import ipaddress
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from mailarray.contract.settings import TlsSettings


def write_certificate(directory: Path, name: str = "localhost") -> TlsSettings:
    """A fresh key and certificate for `name` and 127.0.0.1; an older pair in the directory is replaced."""
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    now = datetime.datetime.now(datetime.UTC)
    names = [x509.DNSName(name), x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]
    certificate = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName(names), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    settings = TlsSettings(certificate=str(directory / "tls.crt"), key=str(directory / "tls.key"))
    put(
        settings.key,
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()),
    )
    put(settings.certificate, certificate.public_bytes(serialization.Encoding.PEM))
    return settings


def put(path: str, data: bytes) -> None:
    """Replace a file whole, as a kubelet does."""
    new = Path(path + ".new")
    new.write_bytes(data)
    new.replace(path)
