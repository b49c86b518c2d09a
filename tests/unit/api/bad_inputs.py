"""Manifests that must be refused, and what the refusal has to say: the same table for the CLI and a real API server."""

from __future__ import annotations

import copy
from dataclasses import dataclass, field
from typing import Any

Json = dict[str, Any]


@dataclass(frozen=True)
class Bad:
    """``said``: words in pydantic's refusal; ``server``: in the API server's, when it has other words."""

    name: str
    spec: Json
    path: str
    said: tuple[str, ...]
    server: tuple[str, ...] = field(default=())


ROOT: Json = {"name": "root", "container": {"image": "example.org/guest:1"}}


def manifest(spec: Json, name: str = "bad", kind: str = "VirtualMachine") -> Json:
    return {"apiVersion": "berth.dev/v1alpha1", "kind": kind, "metadata": {"name": name}, "spec": spec}


def good(**spec: Any) -> Json:
    return {"disks": [copy.deepcopy(ROOT)], **spec}


def _disks(*disks: Json) -> Json:
    return {"disks": list(disks)}


def _disk(name: str = "root", **fields: Any) -> Json:
    return {"name": name, **fields}


EMPTY: Json = {"empty": {}, "size": "1Gi"}
_SIZE = ("size", "2Gi")

BAD: tuple[Bad, ...] = (
    Bad("unknown-field", good(cpus=2), "spec.cpus", ("unknown field", '"cpu"'), ("unknown field",)),
    Bad(
        "unknown-field-deep",
        _disks(_disk(container={"image": "x", "imag": "y"})),
        "spec.disks[0].container.imag",
        ("unknown field", '"image"'),
        ("unknown field",),
    ),
    Bad("wrong-unit", good(memory={"size": "2GB"}), "spec.memory.size", _SIZE, ("2GB", "should match")),
    Bad("negative-size", good(memory={"size": "-1Gi"}), "spec.memory.size", _SIZE, ("-1Gi", "at least 1Mi")),
    Bad("size-without-quotes", good(memory={"size": 1024}), "spec.memory.size", ("text", "1024"), ("type string",)),
    Bad("too-small", good(memory={"size": "1k"}), "spec.memory.size", ("at least 1Mi", "1k")),
    Bad("too-large", good(memory={"size": "999999999999999Pi"}), "spec.memory.size", ("at most 64Ti", "99999Pi")),
    Bad("no-cpu", good(cpu={"count": 0}), "spec.cpu.count", ("at least 1", "0"), ("greater than or equal to 1",)),
    Bad("cpu-model", good(cpu={"model": "-x"}), "spec.cpu.model", ("-x", "A-Za-z0-9"), ("should match",)),
    Bad(
        "cpu-feature",
        good(cpu={"requireFeatures": ["AVX"]}),
        "spec.cpu.requireFeatures[0]",
        ("AVX", "a-z0-9"),
        ("should match",),
    ),
    Bad(
        "host-with-features",
        good(cpu={"model": "Host", "requireFeatures": ["avx"]}),
        "spec.cpu.model",
        ("with model Host, no features can be required or disabled", "(given: Host)"),
    ),
    Bad(
        "feature-both-ways",
        good(cpu={"requireFeatures": ["avx"], "disableFeatures": ["avx"]}),
        "spec.cpu.requireFeatures",
        ("a feature cannot be required and disabled at once", "(given: avx)"),
    ),
    Bad("machine-type", good(machineType="q35"), "spec.machineType", ("q35", "pc-q35-"), ("should match",)),
    Bad("cpu-in-quotes", good(cpu={"count": "2"}), "spec.cpu.count", ("whole number", '"2"'), ("type integer",)),
    Bad(
        "many-cpus", good(cpu={"count": 256}), "spec.cpu.count", ("at most 255", "256"), ("less than or equal to 255",)
    ),
    Bad(
        "power-word",
        good(power="Of"),
        "spec.power",
        ("On, Off, Paused or Suspended", "Of"),
        ('"On", "Off", "Paused", "Suspended"',),
    ),
    Bad("null-source", _disks(_disk(container=None)), "spec.disks[0]", ("exactly one of container",)),
    Bad("two-sources", _disks(_disk(**EMPTY, container={"image": "x"})), "spec.disks[0]", ("given: container empty",)),
    Bad("no-source", _disks(_disk()), "spec.disks[0]", ("exactly one of container, empty, pvc", "given: nothing")),
    Bad("empty-without-size", _disks(_disk(empty={})), "spec.disks[0]", ("needs a size", "10Gi")),
    Bad(
        "same-names", _disks(_disk(**EMPTY), _disk(**EMPTY)), "spec.disks", ("name of its own", "root"), ("Duplicate",)
    ),
    Bad(
        "same-boot-order",
        _disks(_disk(bootOrder=1, **EMPTY), _disk("data", bootOrder=1, **EMPTY)),
        "spec.disks",
        ("each bootOrder may be given to one disk only", "given: 1"),
    ),
    Bad("disk-name", _disks(_disk("Root_1", **EMPTY)), "spec.disks[0].name", ("match", "Root_1"), ("Root_1",)),
    Bad("disk-name-63", _disks(_disk("a" * 63, **EMPTY)), "spec.disks[0].name", ("at most 32", "63"), ("than 32",)),
    Bad("25-disks", _disks(*(_disk(f"d{i}", **EMPTY) for i in range(25))), "spec.disks", ("at most 24", "25")),
    Bad("nothing-to-boot", {}, "spec", ("nothing to boot from", "boot.kernel")),
    Bad("kernel-without-image", {"boot": {"kernel": {}}}, "spec.boot.kernel.image", ("required",), ("Required",)),
    Bad("kernel-args", {"boot": {"kernel": {"image": "x", "args": "a\nb"}}}, "spec.boot.kernel.args", ("match",)),
    Bad("nic-without-network", good(nics=[{"name": "a"}]), "spec.nics[0]", ("exactly one of pod, network",)),
    Bad("two-pod-nics", good(nics=[{"name": n, "pod": {}} for n in "ab"]), "spec.nics", ("at most one interface",)),
    Bad(
        "nine-nics",
        good(nics=[{"name": n, "network": {"name": "x"}} for n in "abcdefghi"]),
        "spec.nics",
        ("at most 8", "9"),
    ),
    Bad(
        "nics-of-one-name",
        good(nics=[{"name": "a", "network": {"name": n}} for n in "qx"]),
        "spec.nics",
        ("a name of its own", "a"),
        ("Duplicate value",),
    ),
    Bad(
        "mac-twice",
        good(nics=[{"name": n, "network": {"name": n}, "mac": "02:00:00:00:00:01"} for n in "qx"]),
        "spec.nics",
        ("each MAC address", "02:00:00:00:00:01"),
        ("each MAC address",),
    ),
    Bad(
        "two-sources",
        good(nics=[{"name": "a", "pod": {}, "network": {"name": "x"}}]),
        "spec.nics[0]",
        ("exactly one of", "pod network"),
    ),
    Bad(
        "bad-address",
        good(nics=[{"name": "a", "network": {"name": "x", "addresses": ["10.0.0.1/8"]}}]),
        "spec.nics[0].network.addresses[0]",
        ("must be an IP address", "10.0.0.1/8"),
    ),
    Bad(
        "two-of-a-family",
        good(nics=[{"name": "a", "network": {"name": "x", "addresses": ["10.0.0.1", "10.0.0.2"]}}]),
        "spec.nics[0].network.addresses",
        ("at most one address of each family",),
    ),
    Bad(
        "spoofing-on-the-pod-network",
        good(nics=[{"name": "a", "pod": {}, "antiSpoofing": False}]),
        "spec.nics[0].antiSpoofing",
        ("cannot be switched off",),
    ),
    Bad(
        "link-of-a-virtual-function",
        good(nics=[{"name": "a", "device": {"resource": "example.com/vf"}, "link": "Down"}]),
        "spec.nics[0].link",
        ("cannot be pulled", "virtual function"),
    ),
    Bad(
        "rate-too-small",
        good(nics=[{"name": "a", "pod": {}, "bandwidth": {"inbound": {"rate": "1k"}}}]),
        "spec.nics[0].bandwidth.inbound.rate",
        ("at least 64k", "1k"),
    ),
    Bad("mtu-too-large", good(nics=[{"name": "a", "pod": {}, "mtu": 70000}]), "spec.nics[0].mtu", ("65535", "70000")),
    Bad(
        "queues-of-e1000e",
        good(nics=[{"name": "a", "pod": {}, "queues": 2, "model": "e1000e"}]),
        "spec.nics[0].queues",
        ("virtio",),
    ),
    Bad(
        "universal-mac",
        good(nics=[{"name": "a", "pod": {}, "mac": "00:16:3e:00:00:00"}]),
        "spec.nics[0].mac",
        ("match", "00:16:3e"),
    ),
    Bad(
        "two-user-data",
        good(cloudInit={"userData": "x", "userDataFrom": {"secret": {"name": "a"}}}),
        "spec.cloudInit",
        ("give only one of userData, userDataFrom",),
    ),
    Bad("user-data-from", good(cloudInit={"userDataFrom": {}}), "spec.cloudInit.userDataFrom", ("secret, configMap",)),
    Bad(
        "user-data-1mb",
        good(cloudInit={"userData": "x" * 2**20}),
        "spec.cloudInit.userData",
        ("at most 65536",),
        ("65536",),
    ),
    Bad(
        "two-probe-actions",
        good(probes={"liveness": {"tcpSocket": {"port": 1}, "httpGet": {"port": 1}}}),
        "spec.probes.liveness",
        ("exactly one of httpGet, tcpSocket", "given: httpGet tcpSocket"),
    ),
    Bad(
        "probe-threshold",
        good(probes={"liveness": {"tcpSocket": {"port": 1}, "successThreshold": 2}}),
        "spec.probes.liveness",
        ("successThreshold must be 1 here",),
    ),
    Bad(
        "port",
        good(probes={"readiness": {"tcpSocket": {"port": 70000}}}),
        "spec.probes.readiness.tcpSocket.port",
        ("65535", "70000"),
    ),
    Bad(
        "grace",
        good(shutdown={"gracePeriodSeconds": -1}),
        "spec.shutdown.gracePeriodSeconds",
        ("at least 0", "-1"),
        ("than or equal to 0",),
    ),
    Bad("eviction", good(eviction="Move"), "spec.eviction", ("LiveMigrate", "Move"), ('"Block"',)),
    Bad("display", good(display={"type": "vnc"}), "spec.display.type", ("None or VNC", "vnc"), ('"None", "VNC"',)),
)
