"""Certificates: made once, made again when their names change, accepted by the strictest verifier."""

from __future__ import annotations

import ssl
from pathlib import Path

from cryptography import x509
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from testbed import settings, topology
from testbed.cluster import pki

SHAPE = topology.parse((settings.REPOSITORY / "kind-config.yaml").read_text())


def read(folder: Path, name: str) -> x509.Certificate:
    return x509.load_pem_x509_certificate((folder / f"{name}.crt").read_bytes())


def test_the_api_server_answers_to_its_service_address(tmp_path: Path) -> None:
    pki.ensure(tmp_path, pki.identities(SHAPE))
    names = read(tmp_path, "apiserver").extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    addresses = {str(a) for a in names.get_values_for_type(x509.IPAddress)}
    assert addresses == {"127.0.0.1", "10.200.0.1", "fd00:10:200::1", "10.96.0.1"}


def test_a_node_is_who_the_node_authorizer_expects(tmp_path: Path) -> None:
    pki.ensure(tmp_path, pki.identities(SHAPE))
    subject = read(tmp_path, "berth-worker").subject
    assert subject.get_attributes_for_oid(NameOID.COMMON_NAME)[0].value == "system:node:berth-worker"
    assert subject.get_attributes_for_oid(NameOID.ORGANIZATION_NAME)[0].value == "system:nodes"


def test_who_serves_nothing_gets_no_server_certificate(tmp_path: Path) -> None:
    pki.ensure(tmp_path, pki.identities(SHAPE))
    usage = read(tmp_path, "admin").extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    assert list(usage) == [ExtendedKeyUsageOID.CLIENT_AUTH]


def test_nothing_is_made_twice_and_a_new_name_makes_one_certificate_anew(tmp_path: Path) -> None:
    before = pki.Identity("x", "x", (), ("one",))
    pki.ensure(tmp_path, [before])
    first, authority = read(tmp_path, "x").serial_number, read(tmp_path, "ca").serial_number
    pki.ensure(tmp_path, [before])
    assert read(tmp_path, "x").serial_number == first
    pki.ensure(tmp_path, [pki.Identity("x", "x", (), ("one", "two"))])
    assert read(tmp_path, "x").serial_number != first
    assert read(tmp_path, "ca").serial_number == authority


def test_keys_are_readable_by_their_owner_only(tmp_path: Path) -> None:
    pki.ensure(tmp_path, pki.identities(SHAPE))
    assert {path.stat().st_mode & 0o777 for path in tmp_path.glob("*.key")} == {0o600}


def test_strict_verification_accepts_them(tmp_path: Path) -> None:
    """Python 3.13's default; pods of the project run it."""
    pki.ensure(tmp_path, pki.identities(SHAPE))
    client = ssl.create_default_context(cafile=str(tmp_path / "ca.crt"))
    client.verify_flags |= ssl.VERIFY_X509_STRICT
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server.load_cert_chain(tmp_path / "apiserver.crt", tmp_path / "apiserver.key")
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    left = client.wrap_bio(to_client, to_server, server_hostname="10.96.0.1")
    right = server.wrap_bio(to_server, to_client, server_side=True)
    for _ in range(4):
        for side in (left, right):
            try:
                side.do_handshake()
            except ssl.SSLWantReadError:
                continue
    assert left.getpeercert()
