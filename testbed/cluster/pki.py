"""Turns (CA, names) into the certificates of one cluster. Called by apply.py before anything starts.

A certificate is made when it is missing or when its names changed; a running cluster keeps its identity until `down`.
"""

from __future__ import annotations

import datetime
import ipaddress
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from testbed import files
from testbed.topology import Topology

LIFETIME = datetime.timedelta(days=3650)


@dataclass(frozen=True, slots=True)
class Identity:
    """One certificate: who it is, which groups it is in, and under which names it serves."""

    name: str
    common_name: str
    groups: tuple[str, ...] = ()
    alternative_names: tuple[str, ...] = ()


def identities(topology: Topology) -> tuple[Identity, ...]:
    """Everyone who needs a certificate; the names are those that Kubernetes' built-in roles are bound to."""
    api_names = ("localhost", "kubernetes", "kubernetes.default", "kubernetes.default.svc", "127.0.0.1")
    hosts = (*api_names, *topology.gateways, topology.api_service)
    nodes = tuple(
        Identity(n.name, f"system:node:{n.name}", ("system:nodes",), (n.name, *n.addresses)) for n in topology.nodes
    )
    return (
        Identity("apiserver", "kube-apiserver", (), hosts),
        Identity("admin", "kubernetes-admin", ("system:masters",)),
        Identity("kubelet-client", "kube-apiserver-kubelet-client", ("system:masters",)),
        Identity("front-proxy-client", "front-proxy-client"),
        Identity("controller-manager", "system:kube-controller-manager"),
        Identity("scheduler", "system:kube-scheduler"),
        Identity("attach", "berth-testbed-attach", ("system:masters",)),
        Identity("proxy", "system:kube-proxy"),
        Identity(
            "addons", "berth-testbed-addons", ("system:masters",), ("metrics-server.kube-system.svc", topology.gateway)
        ),
        *nodes,
    )


def ensure(folder: Path, wanted: Iterable[Identity]) -> None:
    """Make the CA, the service account key and each missing certificate."""
    folder.mkdir(parents=True, exist_ok=True)
    authority = _authority(folder)
    if not (folder / "sa.key").exists():
        _write_key(folder / "sa.key", ec.generate_private_key(ec.SECP256R1()))
    for identity in wanted:
        if files.read(folder / f"{identity.name}.identity") != repr(identity):
            _issue(folder, identity, *authority)
            files.write(folder / f"{identity.name}.identity", repr(identity))


def _authority(folder: Path) -> tuple[x509.Certificate, ec.EllipticCurvePrivateKey]:
    certificate, key = folder / "ca.crt", folder / "ca.key"
    if not certificate.exists():
        _make_authority(certificate, key)
    loaded = serialization.load_pem_private_key(key.read_bytes(), password=None)
    assert isinstance(loaded, ec.EllipticCurvePrivateKey)
    return x509.load_pem_x509_certificate(certificate.read_bytes()), loaded


def _make_authority(certificate: Path, key_file: Path) -> None:
    key = ec.generate_private_key(ec.SECP256R1())
    name = _name("berth-testbed-ca", ())
    builder = _builder(name, name, key).add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
    identifier = x509.SubjectKeyIdentifier.from_public_key(key.public_key())
    builder = builder.add_extension(identifier, critical=False)
    builder = builder.add_extension(_key_usage(sign_certificates=True), critical=True)
    _write_key(key_file, key)
    files.write(certificate, builder.sign(key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM))


def _issue(
    folder: Path, identity: Identity, authority: x509.Certificate, authority_key: ec.EllipticCurvePrivateKey
) -> None:
    key = ec.generate_private_key(ec.SECP256R1())
    usages = [ExtendedKeyUsageOID.CLIENT_AUTH]
    builder = _builder(_name(identity.common_name, identity.groups), authority.subject, key)
    if identity.alternative_names:
        usages.append(ExtendedKeyUsageOID.SERVER_AUTH)
        names = x509.SubjectAlternativeName([_general_name(name) for name in identity.alternative_names])
        builder = builder.add_extension(names, critical=False)
    # Python 3.13 and newer refuse certificates without these two (VERIFY_X509_STRICT).
    signer = x509.AuthorityKeyIdentifier.from_issuer_public_key(authority_key.public_key())
    builder = builder.add_extension(signer, critical=False)
    builder = builder.add_extension(_key_usage(sign_certificates=False), critical=True)
    builder = builder.add_extension(x509.ExtendedKeyUsage(usages), critical=False)
    _write_key(folder / f"{identity.name}.key", key)
    certificate = builder.sign(authority_key, hashes.SHA256())
    files.write(folder / f"{identity.name}.crt", certificate.public_bytes(serialization.Encoding.PEM))


def _builder(subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePrivateKey) -> x509.CertificateBuilder:
    now = datetime.datetime.now(datetime.UTC) - datetime.timedelta(hours=1)
    builder = x509.CertificateBuilder().subject_name(subject).issuer_name(issuer).public_key(key.public_key())
    builder = builder.serial_number(x509.random_serial_number())
    return builder.not_valid_before(now).not_valid_after(now + LIFETIME)


def _key_usage(*, sign_certificates: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=True,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=sign_certificates,
        crl_sign=sign_certificates,
        encipher_only=False,
        decipher_only=False,
    )


def _name(common_name: str, groups: tuple[str, ...]) -> x509.Name:
    attributes = [x509.NameAttribute(NameOID.ORGANIZATION_NAME, group) for group in groups]
    return x509.Name([*attributes, x509.NameAttribute(NameOID.COMMON_NAME, common_name)])


def _general_name(text: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(text))
    except ValueError:
        return x509.DNSName(text)


def _write_key(path: Path, key: ec.EllipticCurvePrivateKey) -> None:
    encoded = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.TraditionalOpenSSL, serialization.NoEncryption()
    )
    files.write(path, encoded, mode=0o600)
