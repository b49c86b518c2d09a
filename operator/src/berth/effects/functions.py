"""PCI functions that a device plugin gave to a pod: a berth process's environment in, their addresses out.

Called by berths.py. The plugin has kubelet set PCIDEVICE_<RESOURCE> in the container. A process may write over its own
environment, so an address is believed only when it is a network card's function on this host.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final

from berth.errors import HostFault

_ADDRESS: Final = re.compile(r"[0-9a-f]{4}:[0-9a-f]{2}:[0-9a-f]{2}\.[0-7]")
_NETWORK_CLASS: Final = "0x02"
_MOST: Final = 64
DEVICES: Final = Path("/sys/bus/pci/devices")


def variable(resource: str) -> str:
    """As the SR-IOV network device plugin names it: example.com/fast_net → PCIDEVICE_EXAMPLE_COM_FAST_NET."""
    return "PCIDEVICE_" + re.sub(r"[^A-Z0-9]", "_", resource.upper())


def addresses(environ: bytes, resources: Sequence[str], devices: Path = DEVICES) -> dict[str, tuple[str, ...]]:
    """All that the pod has of each resource; a resource that it has nothing of is left out."""
    given = {resource: tuple(_read(environ, resource, devices)) for resource in dict.fromkeys(resources)}
    return {resource: found for resource, found in given.items() if found}


def _read(environ: bytes, resource: str, devices: Path) -> Iterator[str]:
    name = variable(resource)
    prefix = f"{name}=".encode()
    value = next((entry[len(prefix) :] for entry in environ.split(b"\0") if entry.startswith(prefix)), b"")
    for text in value.decode("ascii", "replace").split(",")[:_MOST]:
        if text:
            yield _checked(name, text.strip().lower(), devices)


def _checked(name: str, address: str, devices: Path) -> str:
    if not _ADDRESS.fullmatch(address):
        raise HostFault(f"{name} of the pod has {address[:64]!r}, which is no PCI address", reason="DeviceInvalid")
    try:
        kind = (devices / address / "class").read_text()
    except OSError as error:
        message = f"{name} of the pod names {address}, which this node does not have: see its device plugin"
        raise HostFault(message, reason="DeviceMissing") from error
    if not kind.startswith(_NETWORK_CLASS):
        message = f"{name} of the pod names {address}, which is no network card's function (class {kind.strip()})"
        raise HostFault(message, reason="DeviceInvalid")
    return address
