"""Changed fields wait for the next start by their marks alone; every field of the spec is tried."""

from __future__ import annotations

from typing import Any

import pytest

from berth.api.virtualmachine import VirtualMachineSpec
from berth.plan.pending import pending_changes
from tests.unit.plan.cluster_worlds import KERNEL


def spec(**fields: Any) -> VirtualMachineSpec:
    return VirtualMachineSpec.model_validate({**KERNEL, **fields})


@pytest.mark.parametrize(
    ("before", "after", "changed"),
    [
        ({}, {}, []),
        ({}, {"power": "Off", "restart": "Never"}, []),
        ({}, {"memory": {"size": "2Gi"}}, ["spec.memory.size"]),
        ({}, {"cpu": {"count": 2, "request": "1"}}, ["spec.cpu.count", "spec.cpu.request"]),
        ({}, {"guestAgent": False}, ["spec.guestAgent"]),
        ({}, {"display": {"type": "VNC"}}, ["spec.display.type"]),
        ({}, {"boot": {"kernel": {"image": "example.org/kernel:2", "initrdPath": "/boot/initrd"}}},
         ["spec.boot.kernel.image"]),
        ({}, {"boot": {}, "disks": [{"name": "a", "empty": {}, "size": "1Gi"}]},
         ["spec.boot.kernel", "spec.disks[a]"]),
        ({"disks": [{"name": "a", "empty": {}, "size": "1Gi"}]}, {"disks": [{"name": "a", "empty": {}, "size": "2Gi"}]},
         ["spec.disks[a].size"]),
        ({"disks": [{"name": n, "empty": {}, "size": "1Gi"} for n in "ab"]},
         {"disks": [{"name": n, "empty": {}, "size": "1Gi"} for n in "ba"]}, ["spec.disks"]),
        ({"disks": [{"name": "a", "empty": {}, "size": "1Gi"}]},
         {"disks": [{"name": "a", "pvc": {"claimName": "c"}, "size": "1Gi"}]},
         ["spec.disks[a].empty", "spec.disks[a].pvc"]),
        ({}, {"nics": []}, ["spec.nics[default]"]),
        ({}, {"cloudInit": {"userData": "x"}}, ["spec.cloudInit"]),
        ({"cloudInit": {"userData": "x"}}, {"cloudInit": {"userData": "y"}}, ["spec.cloudInit.userData"]),
        ({}, {"probes": {"readiness": {"tcpSocket": {"port": 1}}}}, ["spec.probes.readiness"]),
        ({}, {"placement": {"nodeSelector": {"a": "b"}}}, ["spec.placement.nodeSelector"]),
        ({}, {"shutdown": {"gracePeriodSeconds": 1}}, ["spec.shutdown.gracePeriodSeconds"]),
    ],
)  # fmt: skip
def test_paths(before: dict[str, Any], after: dict[str, Any], changed: list[str]) -> None:
    assert pending_changes(spec(**before), spec(**after)) == changed
