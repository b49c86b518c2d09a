"""cloud-init's NoCloud disk: documents in, an ISO 9660 image out. Called by media.py; reads and writes no file."""

from __future__ import annotations

import io
import json

import pycdlib
import pycdlib.headervd
import pycdlib.pycdlib

from berth.errors import HostFault

LIMIT_BYTES = 1 << 20
"""As much as a Secret can hold."""


class _NoClock:
    """In pycdlib's place of the time module: the same documents are the same disk, byte for byte, on every node that a
    machine moves to while it runs."""

    @staticmethod
    def time() -> float:
        return 0.0


for _module in (pycdlib.pycdlib, pycdlib.headervd):
    _module.time = _NoClock


def meta_data(instance_id: str, hostname: str) -> bytes:
    """JSON is YAML: no quoting to get wrong."""
    return json.dumps({"instance-id": instance_id, "local-hostname": hostname}, indent=1).encode() + b"\n"


def build(instance_id: str, hostname: str, user_data: bytes, network_data: bytes | None) -> bytes:
    """The volume label "cidata" is what cloud-init looks for."""
    documents = {"user-data": user_data, "meta-data": meta_data(instance_id, hostname)}
    if network_data is not None:
        documents["network-config"] = network_data
    for name, content in documents.items():
        if len(content) > LIMIT_BYTES:
            message = f"cloudInit: {name} has {len(content)} bytes; the limit is {LIMIT_BYTES}"
            raise HostFault(message, reason="CloudInitInvalid")
    iso = pycdlib.PyCdlib()
    iso.new(interchange_level=3, joliet=3, rock_ridge="1.09", vol_ident="cidata")
    for number, (name, content) in enumerate(documents.items()):
        iso.add_fp(io.BytesIO(content), len(content), f"/FILE{number}.;1", rr_name=name, joliet_path=f"/{name}")
    image = io.BytesIO()
    iso.write_fp(image)
    iso.close()
    return image.getvalue()
