"""cloud-init's disk, read back."""

from __future__ import annotations

import io
import json

import pycdlib
import pytest

from berth.effects import seed
from berth.errors import HostFault


def read(image: bytes) -> dict[str, bytes]:
    iso = pycdlib.PyCdlib()
    iso.open_fp(io.BytesIO(image))
    found = {}
    for name in ("user-data", "meta-data", "network-config"):
        out = io.BytesIO()
        try:
            iso.get_file_from_iso_fp(out, joliet_path=f"/{name}")
        except pycdlib.pycdlibexception.PyCdlibInvalidInput:
            continue
        found[name] = out.getvalue()
    iso.close()
    return found


def test_documents_are_found_under_their_names() -> None:
    image = seed.build("i-1", 'we"b', "#cloud-config\nü: 1\n".encode(), b"version: 2\n")
    found = read(image)
    assert found["user-data"] == "#cloud-config\nü: 1\n".encode()
    assert found["network-config"] == b"version: 2\n"
    assert json.loads(found["meta-data"]) == {"instance-id": "i-1", "local-hostname": 'we"b'}
    assert b"cidata" in image[16 * 2048 : 17 * 2048]


def test_the_same_documents_are_the_same_disk_whenever_it_is_made(monkeypatch: pytest.MonkeyPatch) -> None:
    first = seed.build("i", "h", b"#cloud-config\n", b"version: 2\n")
    monkeypatch.setattr("time.time", lambda: 1.9e9)
    assert seed.build("i", "h", b"#cloud-config\n", b"version: 2\n") == first
    assert seed.build("j", "h", b"#cloud-config\n", b"version: 2\n") != first


def test_network_config_may_be_left_out() -> None:
    assert set(read(seed.build("i", "h", b"", None))) == {"user-data", "meta-data"}


def test_a_document_too_large_is_refused() -> None:
    with pytest.raises(HostFault, match="the limit is 1048576") as caught:
        seed.build("i", "h", bytes(seed.LIMIT_BYTES + 1), None)
    assert caught.value.reason == "CloudInitInvalid"
