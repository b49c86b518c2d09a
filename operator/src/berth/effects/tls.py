"""TLS 1.3 contexts from identities in memory, and who the other side is. Used by the agent and the controller.

It imports nothing but the standard library, so that the agent stays small: making keys and certificates is
certificates.py's business. Nothing here opens a connection.
"""

from __future__ import annotations

import contextlib
import datetime
import os
import ssl
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, Final

CONTROLLER_NAME: Final = "system:berth:controller"
_END: Final = "-----END CERTIFICATE-----"
_EXPLICIT_VERSION, _UTC_TIME = 0xA0, 0x17
NAME_LIMIT: Final = 64  # X.509 allows no longer common name


def node_name(node: str) -> str:
    """The common name of a node's agent, for people; what is verified is the alternative name, which is never cut."""
    return f"system:berth:node:{node}"[:NAME_LIMIT]


@dataclass(frozen=True, slots=True)
class Identity:
    """A certificate (followed by its chain) and its private key, both PEM."""

    certificate: bytes
    key: bytes = field(repr=False)


@dataclass(frozen=True, slots=True)
class Validity:
    not_before: datetime.datetime
    not_after: datetime.datetime

    @property
    def half_life(self) -> datetime.datetime:
        """When a new certificate is due: half of the lifetime is left to get one."""
        return self.not_before + (self.not_after - self.not_before) / 2


def validity(certificate: bytes) -> Validity:
    """From when to when the first PEM certificate holds; ValueError when it is none.

    It walks the few DER fields before the dates: the standard library reads them of a peer's certificate only.
    """
    try:
        text = certificate.decode("ascii").partition(_END)
        to_be_signed = _fields(_fields(_fields(ssl.PEM_cert_to_DER_cert(text[0] + text[1]))[0][1])[0][1])
        unversioned = to_be_signed[1:] if to_be_signed[0][0] == _EXPLICIT_VERSION else to_be_signed
        begin, end = _fields(unversioned[3][1])  # after serial number, algorithm and issuer
        return Validity(_time(*begin), _time(*end))
    except (IndexError, UnicodeDecodeError) as error:
        raise ValueError("it is no PEM certificate") from error


def server_context(identity: Identity, authorities: str) -> ssl.SSLContext:
    """TLS 1.3 for a server whose clients must all show a certificate of ``authorities`` (PEM)."""
    context = _context(ssl.PROTOCOL_TLS_SERVER, authorities)
    context.verify_mode = ssl.CERT_REQUIRED
    load_identity(context, identity)
    return context


def open_server_context(identity: Identity) -> ssl.SSLContext:
    """TLS 1.3 for a server whose clients prove themselves by a token: the controller's enrolment."""
    context = _context(ssl.PROTOCOL_TLS_SERVER, None)
    load_identity(context, identity)
    return context


def client_context(identity: Identity | None, authorities: str) -> ssl.SSLContext:
    """TLS 1.3 for a client that trusts only ``authorities``; ``identity`` is None where a token is the proof.

    A node's agent is reached by its address and named by its node: connect with ``server_hostname=<node name>``.
    """
    context = _context(ssl.PROTOCOL_TLS_CLIENT, authorities)
    if identity is not None:
        load_identity(context, identity)
    return context


def load_identity(context: ssl.SSLContext, identity: Identity) -> None:
    """Give a context its certificate; in a live server every later handshake shows the new one."""
    with _as_file(identity.certificate) as certificate, _as_file(identity.key) as key:
        context.load_cert_chain(certificate, key)


def common_name(peer: Any) -> str:
    """The common name in what ``SSLObject.getpeercert()`` gives; empty when there is none or more than one."""
    pairs = [pair for names in (peer or {}).get("subject", ()) for pair in names]
    found = [value for key, value in pairs if key == "commonName"]
    return str(found[0]) if len(found) == 1 else ""


def node_of(peer: Any) -> str:
    """The node whose agent's certificate this is, in what ``getpeercert()`` gives; empty when it is nobody's."""
    names = [value for kind, value in (peer or {}).get("subjectAltName", ()) if kind == "DNS"]
    return str(names[0]) if len(names) == 1 and common_name(peer) == node_name(names[0]) else ""


def _context(protocol: int, authorities: str | None) -> ssl.SSLContext:
    context = ssl.SSLContext(protocol)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    if authorities is not None:
        context.load_verify_locations(cadata=authorities)
    return context


@contextlib.contextmanager
def _as_file(content: bytes) -> Iterator[str]:
    """ssl reads keys from files only: one in memory, so that a key never touches a disk."""
    fd = os.memfd_create("berth-tls", os.MFD_CLOEXEC)
    try:
        os.write(fd, content)
        yield f"/proc/self/fd/{fd}"
    finally:
        os.close(fd)


def _fields(der: bytes) -> list[tuple[int, bytes]]:
    """The elements in a DER value: tag and content each."""
    found, at = [], 0
    while at < len(der):
        tag, length, start = der[at], der[at + 1], at + 2
        if length & 0x80:
            width = length & 0x7F
            length, start = int.from_bytes(der[start : start + width], "big"), start + width
        if start + length > len(der):
            raise ValueError("the certificate is cut off")
        found.append((tag, der[start : start + length]))
        at = start + length
    return found


def _time(tag: int, text: bytes) -> datetime.datetime:
    """UTCTime has two digits of the year, which mean 1950 to 2049; GeneralizedTime has four."""
    digits = text.decode("ascii")
    if tag == _UTC_TIME:
        digits = ("20" if digits < "50" else "19") + digits
    return datetime.datetime.strptime(digits, "%Y%m%d%H%M%SZ").replace(tzinfo=datetime.UTC)
