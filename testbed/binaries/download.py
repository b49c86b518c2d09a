"""Fetches official files and checks them against the vendor's published SHA-256. Gives up within seconds.

A machine without access to a vendor's site finds out once: the failed host is remembered for the rest of the run.
"""

from __future__ import annotations

import hashlib
import io
import tarfile
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from testbed import errors
from testbed.binaries.catalog import Download

CONNECT_SECONDS = 4.0
CHUNK = 1 << 20


@dataclass(slots=True)
class Downloader:
    """Remembers hosts that did not answer."""

    on_fraction: Callable[[float], None] = lambda fraction: None
    unreachable: set[str] = field(default_factory=set)

    def programs(self, wanted: Download, names: tuple[str, ...]) -> Mapping[str, bytes]:
        """The programs of one download, checked."""
        content = self.verified(wanted)
        return {names[0]: content} if wanted.members is None else _unpack(content, wanted.members)

    def verified(self, wanted: Download) -> bytes:
        """One file whose checksum is the one its vendor publishes."""
        expected = _pick(self._fetch(wanted.checksum_url).decode(), wanted.url.rpartition("/")[2])
        content = self._fetch(wanted.url)
        actual = hashlib.sha256(content).hexdigest()
        if actual != expected:
            raise errors.TestbedError(f"{wanted.url}: its SHA-256 is {actual}, its vendor says {expected}")
        return content

    def _fetch(self, url: str) -> bytes:
        host = urllib.parse.urlsplit(url).hostname or ""
        if host in self.unreachable:
            raise errors.Unavailable(f"{host} did not answer before")
        try:
            with urllib.request.urlopen(url, timeout=CONNECT_SECONDS) as answer:
                return self._read(answer, int(answer.headers.get("Content-Length") or 0))
        except urllib.error.HTTPError as error:
            raise errors.Unavailable(f"{url}: {error.code} {error.reason}") from error
        except OSError as error:
            self.unreachable.add(host)
            raise errors.Unavailable(f"{url}: {error}") from error

    def _read(self, answer: io.BufferedIOBase, length: int) -> bytes:
        content = bytearray()
        while chunk := answer.read(CHUNK):
            content += chunk
            if length > CHUNK:
                self.on_fraction(len(content) / length)
        return bytes(content)


def _pick(text: str, name: str) -> str:
    """A checksum file holds one bare hash, or lines of `hash  name`."""
    for line in text.splitlines():
        words = line.split()
        if words and (len(words) == 1 or words[1].lstrip("*") == name):
            return words[0].lower()
    raise errors.Unavailable(f"the vendor's checksum file does not name {name}")


def _unpack(content: bytes, members: Mapping[str, str]) -> dict[str, bytes]:
    programs = {}
    with tarfile.open(fileobj=io.BytesIO(content)) as archive:
        for tool, path in members.items():
            stream = archive.extractfile(path)
            if stream is None:
                raise errors.Unavailable(f"the archive holds no {path}")
            programs[tool] = stream.read()
    return programs
