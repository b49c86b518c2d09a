"""Keys, signing requests and certificates: the authority that controller and agents trust, and what it signs.

The controller makes an ``Authority`` once, signs each agent's request (``sign_node``) and makes its own identities
(``new_identity``); the agent makes requests (``new_request``), in a process of its own (`python -m` this module NAME),
because the library behind it would stay in its memory for ever. Where keys are kept is the caller's business.
"""

from __future__ import annotations

import datetime
import ipaddress
import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from berth.effects.tls import Identity, node_name
from berth.effects.tls import validity as validity
from berth.errors import Refused

AUTHORITY_NAME: Final = "berth-ca"
AUTHORITY_LIFETIME: Final = datetime.timedelta(days=3650)
IDENTITY_LIFETIME: Final = datetime.timedelta(hours=24)
CLOCK_SKEW: Final = datetime.timedelta(minutes=5)
MAX_REQUEST_BYTES: Final = 16 * 1024


@dataclass(frozen=True, slots=True)
class Authority(Identity):
    """An Identity whose certificate signs others. Only the controller ever holds one."""


def new_authority(now: datetime.datetime) -> Authority:
    """A new self-signed authority that can sign end certificates only."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = _name(AUTHORITY_NAME)
    builder = (
        _builder(name, name, key.public_key(), now, AUTHORITY_LIFETIME)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_key_usage(authority=True), critical=True)
    )
    return Authority(_pem(builder.sign(key, hashes.SHA256())), _key_pem(key))


def new_request(common_name: str) -> tuple[bytes, bytes]:
    """A new private key and a signing request for it, both PEM."""
    key = ec.generate_private_key(ec.SECP256R1())
    request = x509.CertificateSigningRequestBuilder().subject_name(_name(common_name)).sign(key, hashes.SHA256())
    return _key_pem(key), request.public_bytes(serialization.Encoding.PEM)


def sign_node(
    authority: Authority, request: bytes, *, node: str, addresses: Sequence[str], now: datetime.datetime
) -> bytes:
    """The certificate of one node's agent, which serves the controller and other agents, and calls those.

    Of the request only the public key counts, never the names in it.
    """
    return _issue(
        authority,
        _requested_key(request),
        node_name(node),
        names=(node, *addresses),
        usage=(ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH),
        now=now,
        lifetime=IDENTITY_LIFETIME,
    )


def new_identity(
    authority: Authority,
    common_name: str,
    *,
    names: Sequence[str] = (),
    now: datetime.datetime,
    lifetime: datetime.timedelta = IDENTITY_LIFETIME,
) -> Identity:
    """A key and certificate of the controller's own: a server's if ``names`` (DNS or IP) are given, else a client's."""
    key = ec.generate_private_key(ec.SECP256R1())
    usage = ExtendedKeyUsageOID.SERVER_AUTH if names else ExtendedKeyUsageOID.CLIENT_AUTH
    certificate = _issue(
        authority, key.public_key(), common_name, names=names, usage=(usage,), now=now, lifetime=lifetime
    )
    return Identity(certificate, _key_pem(key))


def _requested_key(request: bytes) -> ec.EllipticCurvePublicKey:
    if len(request) > MAX_REQUEST_BYTES:
        raise Refused(
            f"the signing request has {len(request)} bytes, at most {MAX_REQUEST_BYTES} are read",
            reason="RequestInvalid",
        )
    try:
        parsed = x509.load_pem_x509_csr(request)
        key = parsed.public_key()
        valid = parsed.is_signature_valid
    except (ValueError, TypeError, InvalidSignature) as error:
        raise Refused(f"not a PEM certificate signing request: {error}", reason="RequestInvalid") from error
    if not valid or not isinstance(key, ec.EllipticCurvePublicKey):
        raise Refused("the request must be signed with its own elliptic-curve key", reason="RequestInvalid")
    return key


def _issue(
    authority: Authority,
    key: ec.EllipticCurvePublicKey,
    subject: str,
    *,
    names: Sequence[str],
    usage: Sequence[x509.ObjectIdentifier],
    now: datetime.datetime,
    lifetime: datetime.timedelta,
) -> bytes:
    issuer = x509.load_pem_x509_certificate(authority.certificate)
    signer = serialization.load_pem_private_key(authority.key, password=None)
    if not isinstance(signer, ec.EllipticCurvePrivateKey):
        raise Refused("the authority's key is no elliptic-curve key; delete its Secret to make a new authority")
    builder = (
        _builder(_name(subject), issuer.subject, key, now, lifetime)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_key_usage(authority=False), critical=True)
        .add_extension(x509.ExtendedKeyUsage(usage), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(signer.public_key()), critical=False)
    )
    if names:
        builder = builder.add_extension(x509.SubjectAlternativeName([_alternative(n) for n in names]), critical=False)
    return _pem(builder.sign(signer, hashes.SHA256()))


def _builder(
    subject: x509.Name,
    issuer: x509.Name,
    key: ec.EllipticCurvePublicKey,
    now: datetime.datetime,
    lifetime: datetime.timedelta,
) -> x509.CertificateBuilder:
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - CLOCK_SKEW)
        .not_valid_after(now + lifetime)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key), critical=False)
    )


def _key_usage(*, authority: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not authority,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=authority,
        crl_sign=authority,
        encipher_only=False,
        decipher_only=False,
    )


def _name(common: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common)])


def _alternative(name: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(name))
    except ValueError:
        return x509.DNSName(name)


def _pem(certificate: x509.Certificate) -> bytes:
    return certificate.public_bytes(serialization.Encoding.PEM)


def _key_pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )


if __name__ == "__main__":
    key_pem, request_pem = new_request(sys.argv[1])
    print(json.dumps({"key": key_pem.decode(), "request": request_pem.decode()}))
