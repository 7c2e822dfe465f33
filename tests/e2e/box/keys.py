"""Keys of one control plane: its certificate authority, what that signs, tokens, and kubeconfig files.

Made afresh with each cluster, readable by the owner only, and worth nothing outside of it.
"""

from __future__ import annotations

import base64
import datetime
import ipaddress
import secrets
from pathlib import Path

import yaml
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

VALID = datetime.timedelta(days=365)

# Who calls the API server: user, groups. Names are those that Kubernetes' own RBAC rules are bound to.
USERS = {
    "admin": ("box-admin", "system:masters"),
    "controller-manager": ("system:kube-controller-manager", ""),
    "scheduler": ("system:kube-scheduler", ""),
    "proxy": ("system:kube-proxy", ""),
    "dns": ("system:coredns", ""),
    "external-dns": ("external-dns", ""),
}


class Keys:
    """The folder with all keys of one control plane."""

    def __init__(self, folder: Path, url: str, addresses: list[str], nodes: list[str]) -> None:
        self.folder = folder
        self._url = url
        self._users = USERS | {name: (f"system:node:{name}", "system:nodes") for name in nodes}
        self._addresses = addresses
        self.ca = folder / "ca.crt"
        self.tokens = folder / "tokens.csv"

    def make(self) -> None:
        """Write everything."""
        self.folder.mkdir(parents=True, mode=0o700, exist_ok=True)
        self._ca_key = ec.generate_private_key(ec.SECP256R1())
        self._ca_name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "mailarray-box")])
        self._write("ca", self._ca_key, self._certificate(self._ca_name, self._ca_key, ca=True))
        self._sign("apiserver", "kube-apiserver", "")
        self._sign("apiserver-kubelet", "kube-apiserver", "system:masters")
        self._write("service-accounts", ec.generate_private_key(ec.SECP256R1()), None)
        lines = []
        for name, (user, group) in self._users.items():
            token = secrets.token_hex(16)
            lines.append(f'{token},{user},{name},"{group}"\n')
            self._private(self.kubeconfig(name), yaml.safe_dump(self._kubeconfig(token)))
        self._private(self.tokens, "".join(lines))

    def kubeconfig(self, user: str) -> Path:
        """The kubeconfig file of a user of USERS, or of a node."""
        return self.folder / f"{user}.kubeconfig"

    def file(self, name: str) -> Path:
        """A key or certificate by its file name."""
        return self.folder / name

    def _kubeconfig(self, token: str) -> dict[str, object]:
        cluster = {"server": self._url, "certificate-authority-data": _base64(self.ca)}
        return {
            "apiVersion": "v1",
            "kind": "Config",
            "clusters": [{"name": "box", "cluster": cluster}],
            "users": [{"name": "box", "user": {"token": token}}],
            "contexts": [{"name": "box", "context": {"cluster": "box", "user": "box"}}],
            "current-context": "box",
        }

    def _sign(self, name: str, common_name: str, organization: str) -> None:
        attributes = [x509.NameAttribute(NameOID.COMMON_NAME, common_name)]
        if organization:
            attributes.append(x509.NameAttribute(NameOID.ORGANIZATION_NAME, organization))
        key = ec.generate_private_key(ec.SECP256R1())
        self._write(name, key, self._certificate(x509.Name(attributes), key, ca=False))

    def _certificate(self, subject: x509.Name, key: ec.EllipticCurvePrivateKey, *, ca: bool) -> x509.Certificate:
        now = datetime.datetime.now(datetime.UTC)
        names: list[x509.GeneralName] = [x509.IPAddress(ipaddress.ip_address(one)) for one in self._addresses]
        names += [
            x509.DNSName(f"kubernetes{end}") for end in ("", ".default", ".default.svc", ".default.svc.cluster.local")
        ]
        builder = (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(self._ca_name)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - datetime.timedelta(hours=1))
            .not_valid_after(now + VALID)
            .add_extension(x509.BasicConstraints(ca=ca, path_length=None), critical=True)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
            .add_extension(
                x509.AuthorityKeyIdentifier.from_issuer_public_key(self._ca_key.public_key()), critical=False
            )
        )
        if ca:
            usage = x509.KeyUsage(True, False, False, False, False, True, True, False, False)
            builder = builder.add_extension(usage, critical=True)
        else:
            usages = [ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH]
            builder = builder.add_extension(x509.ExtendedKeyUsage(usages), critical=False)
            builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=False)
        return builder.sign(self._ca_key, hashes.SHA256())

    def _write(self, name: str, key: ec.EllipticCurvePrivateKey, certificate: x509.Certificate | None) -> None:
        pem = key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.TraditionalOpenSSL, serialization.NoEncryption()
        )
        self._private(self.file(f"{name}.key"), pem.decode())
        if certificate:
            self.file(f"{name}.crt").write_bytes(certificate.public_bytes(serialization.Encoding.PEM))

    @staticmethod
    def _private(path: Path, text: str) -> None:
        path.touch(mode=0o600)
        path.write_text(text)


def _base64(path: Path) -> str:
    return base64.b64encode(path.read_bytes()).decode()
