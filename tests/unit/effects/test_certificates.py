"""Who trusts whom: certificates made by one side against TLS contexts of the other, in memory, without a network."""

from __future__ import annotations

import datetime
import ssl

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import rsa

from berth.effects import certificates, tls
from berth.errors import Refused

NOW = datetime.datetime.now(datetime.UTC)
NODE = "node-a"


@pytest.fixture(scope="module")
def authority() -> certificates.Authority:
    return certificates.new_authority(NOW)


def node_identity(
    authority: certificates.Authority, *, now: datetime.datetime = NOW, asked_name: str = NODE
) -> tls.Identity:
    key, request = certificates.new_request(asked_name)
    signed = certificates.sign_node(authority, request, node=NODE, addresses=["10.0.0.7"], now=now)
    return tls.Identity(signed, key)


def controller(authority: certificates.Authority) -> tls.Identity:
    return certificates.new_identity(authority, tls.CONTROLLER_NAME, now=NOW)


def shake(server: ssl.SSLContext, client: ssl.SSLContext, hostname: str) -> tuple[ssl.SSLObject, ssl.SSLObject]:
    """A whole TLS handshake over two memory buffers, and one byte so that both have finished."""
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    there = server.wrap_bio(to_server, to_client, server_side=True)
    here = client.wrap_bio(to_client, to_server, server_hostname=hostname)
    for side in (here, there, here, there):
        try:
            side.do_handshake()
        except ssl.SSLWantReadError:
            continue
    here.write(b"x")
    assert there.read(1) == b"x"
    return there, here


def test_controller_and_agent_know_each_other(authority: certificates.Authority) -> None:
    ca = authority.certificate.decode()
    server = tls.server_context(node_identity(authority), ca)
    for hostname in (NODE, "10.0.0.7"):
        there, here = shake(server, tls.client_context(controller(authority), ca), hostname)
        assert tls.common_name(there.getpeercert()) == tls.CONTROLLER_NAME
        assert tls.common_name(here.getpeercert()) == "system:berth:node:node-a"
        assert there.version() == "TLSv1.3"


def test_the_name_in_a_request_does_not_count(authority: certificates.Authority) -> None:
    identity = node_identity(authority, asked_name=tls.CONTROLLER_NAME)
    parsed = x509.load_pem_x509_certificate(identity.certificate)
    assert parsed.subject.rfc4514_string() == "CN=system:berth:node:node-a"


def test_another_node_is_refused(authority: certificates.Authority) -> None:
    ca = authority.certificate.decode()
    server = tls.server_context(node_identity(authority), ca)
    with pytest.raises(ssl.SSLCertVerificationError, match="Hostname mismatch"):
        shake(server, tls.client_context(controller(authority), ca), "node-b")


def test_nodes_call_each_other_in_their_own_names_only(authority: certificates.Authority) -> None:
    ca = authority.certificate.decode()
    server = tls.server_context(node_identity(authority), ca)
    there, _ = shake(server, tls.client_context(node_identity(authority), ca), NODE)
    assert tls.node_of(there.getpeercert()) == NODE
    assert tls.common_name(there.getpeercert()) != tls.CONTROLLER_NAME
    there, _ = shake(server, tls.client_context(controller(authority), ca), NODE)
    assert tls.node_of(there.getpeercert()) == ""
    assert tls.node_of(None) == ""


def test_the_controllers_certificate_serves_nobody(authority: certificates.Authority) -> None:
    ca = authority.certificate.decode()
    with pytest.raises(ssl.SSLError, match=r"CERTIFICATE_VERIFY_FAILED|unsuitable|unsupported|Hostname"):
        shake(tls.server_context(controller(authority), ca), tls.client_context(node_identity(authority), ca), NODE)


def test_another_authority_is_refused_on_both_sides(authority: certificates.Authority) -> None:
    other = certificates.new_authority(NOW)
    ca = authority.certificate.decode()
    with pytest.raises(ssl.SSLError):
        shake(tls.server_context(node_identity(other), ca), tls.client_context(controller(authority), ca), NODE)
    with pytest.raises(ssl.SSLError):
        shake(tls.server_context(node_identity(authority), ca), tls.client_context(controller(other), ca), NODE)


def test_no_certificate_no_connection(authority: certificates.Authority) -> None:
    ca = authority.certificate.decode()
    with pytest.raises(ssl.SSLError):
        shake(tls.server_context(node_identity(authority), ca), tls.client_context(None, ca), NODE)
    shake(tls.open_server_context(node_identity(authority)), tls.client_context(None, ca), NODE)


def test_an_expired_certificate_is_refused(authority: certificates.Authority) -> None:
    ca = authority.certificate.decode()
    old = node_identity(authority, now=NOW - datetime.timedelta(hours=25))
    with pytest.raises(ssl.SSLCertVerificationError, match="expired"):
        shake(tls.server_context(old, ca), tls.client_context(controller(authority), ca), NODE)


def test_a_live_context_takes_a_new_certificate(authority: certificates.Authority) -> None:
    ca = authority.certificate.decode()
    server = tls.server_context(node_identity(authority, now=NOW - datetime.timedelta(hours=25)), ca)
    fresh = node_identity(authority)
    tls.load_identity(server, fresh)
    _, here = shake(server, tls.client_context(controller(authority), ca), NODE)
    assert here.getpeercert(binary_form=True) == ssl.PEM_cert_to_DER_cert(fresh.certificate.decode())


def test_half_life(authority: certificates.Authority) -> None:
    held = tls.validity(node_identity(authority).certificate)
    assert held.not_after - held.not_before == certificates.IDENTITY_LIFETIME + certificates.CLOCK_SKEW
    assert abs(held.half_life - (NOW + datetime.timedelta(hours=12))) < datetime.timedelta(minutes=5)


def test_a_node_name_longer_than_a_common_name_is_still_verified(authority: certificates.Authority) -> None:
    node = ".".join(["n" * 60] * 4)
    key, request = certificates.new_request("agent")
    signed = certificates.sign_node(authority, request, node=node, addresses=[], now=NOW)
    ca = authority.certificate.decode()
    server = tls.server_context(tls.Identity(signed, key), ca)
    shake(server, tls.client_context(controller(authority), ca), node)


@pytest.mark.parametrize(
    ("request_pem", "message"),
    [
        (b"", "not a PEM"),
        (b"-----BEGIN CERTIFICATE REQUEST-----\nAAAA\n", "not a PEM"),
        (b"x" * 20000, "at most 16384"),
    ],
    ids=["empty", "cut", "large"],
)
def test_a_bad_request_is_refused(authority: certificates.Authority, request_pem: bytes, message: str) -> None:
    with pytest.raises(Refused, match=message) as refused:
        certificates.sign_node(authority, request_pem, node=NODE, addresses=[], now=NOW)
    assert refused.value.reason == "RequestInvalid"


def test_a_request_with_another_kind_of_key_is_refused(authority: certificates.Authority) -> None:
    key = rsa.generate_private_key(65537, 2048)
    name = x509.Name([])
    request = x509.CertificateSigningRequestBuilder().subject_name(name).sign(key, hashes.SHA256())
    with pytest.raises(Refused, match="elliptic-curve"):
        certificates.sign_node(
            authority, request.public_bytes(serialization.Encoding.PEM), node=NODE, addresses=[], now=NOW
        )


def test_keys_are_not_shown() -> None:
    assert "secret" not in repr(tls.Identity(b"public", b"secret"))


@pytest.mark.parametrize(
    ("peer", "name"),
    [
        (None, ""),
        ({}, ""),
        ({"subject": ((("commonName", "a"),), (("commonName", "b"),))}, ""),
        ({"subject": ((("organizationName", "x"),), (("commonName", "a"),))}, "a"),
    ],
)
def test_common_name(peer: object, name: str) -> None:
    assert tls.common_name(peer) == name


@pytest.mark.parametrize("year", [1999, 2026, 2049, 2050, 2500])
def test_validity_agrees_with_the_library(authority: certificates.Authority, year: int) -> None:
    begin = datetime.datetime(year, 3, 4, 5, 6, 7, tzinfo=datetime.UTC)
    pem = node_identity(authority, now=begin).certificate
    parsed = x509.load_pem_x509_certificate(pem)
    assert tls.validity(pem) == tls.Validity(parsed.not_valid_before_utc, parsed.not_valid_after_utc)
    assert tls.validity(pem + authority.certificate) == tls.validity(pem)  # a chain: the first one counts


@pytest.mark.parametrize(
    "pem", [b"", b"nonsense", b"\xff", b"-----BEGIN CERTIFICATE-----\nMIIB\n-----END CERTIFICATE-----\n"]
)
def test_what_is_no_certificate_has_no_validity(pem: bytes) -> None:
    with pytest.raises(ValueError):  # noqa: PT011 - whatever is wrong with it
        tls.validity(pem)
