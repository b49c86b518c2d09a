"""Whether a machine can be suspended, the claim for its state, and what a restored one is made from."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from berth.api.savedstate import SavedStateStatus
from berth.api.virtualmachine import Power, VirtualMachineSpec, VirtualMachineStatus
from berth.plan import berthpod, restoring, savedclaim, suspendable
from berth.plan.world import Machine
from tests.unit.plan.cluster_worlds import machine, world

KERNEL = {"kernel": {"image": "example.org/kernel:1"}}
STATES = {"pvc": {"claimName": "states"}}


def spec(**more: Any) -> VirtualMachineSpec:
    return VirtualMachineSpec.model_validate({"boot": KERNEL, "savedState": STATES, **more})


def of(given: VirtualMachineSpec, status: VirtualMachineStatus | None = None) -> Machine:
    return replace(machine(), spec=given, status=status)


@pytest.mark.parametrize(
    ("more", "reason"),
    [
        ({}, "Suspendable"),
        ({"savedState": None}, "NoSavedState"),
        ({"disks": [{"name": "d", "pvc": {"claimName": "c"}}]}, "Suspendable"),
        ({"disks": [{"name": "d", "empty": {}, "size": "1Gi"}]}, "Suspendable"),
        ({"disks": [{"name": "d", "container": {"image": "example.org/d:1"}}]}, "Suspendable"),
        ({"disks": [{"name": "d", "container": {"image": "example.org/d:1"}, "readOnly": True}]}, "Suspendable"),
        ({"nics": [{"name": "n", "network": {"name": "lan"}}]}, "Suspendable"),
        ({"nics": [{"name": "n", "multus": {"name": "lan"}}]}, "PodInterface"),
        ({"nics": [{"name": "n", "device": {"resource": "example.org/vf"}}]}, "HostDevice"),
    ],
)
def test_what_stands_in_the_way(more: dict[str, Any], reason: str) -> None:
    found = suspendable.of_spec(spec(**more))
    assert (found.able, found.reason) == (reason == "Suspendable", reason)
    assert found.able or "Next: " in found.message


def test_a_volume_that_is_given_to_a_running_machine_is_mounted_at_its_next_start() -> None:
    found = suspendable.answer(spec(savedState=None), spec())
    assert (found.able, found.reason) == (False, "SavedStateNotMounted")
    assert suspendable.answer(None, spec()).able


def test_one_that_cannot_be_suspended_is_taken_for_one_that_is_to_run() -> None:
    assert world(machine=of(spec(power="Suspended"))).wanted is Power.SUSPENDED
    assert world(machine=of(spec(power="Suspended", savedState=None))).wanted is Power.ON


@pytest.mark.parametrize(
    ("where", "name"),
    [
        (STATES, "states"),
        ({"claim": {}}, "web-saved-state"),
    ],
)
def test_the_berth_mounts_the_claim(where: dict[str, Any], name: str) -> None:
    named = replace(of(spec(savedState=where)), name="web")
    pod = berthpod.berth_pod(named, 1, world().cluster)
    volumes = {volume["name"]: volume for volume in pod["spec"]["volumes"]}
    assert volumes["saved"]["persistentVolumeClaim"] == {"claimName": name}
    mounts = {mount["name"]: mount for mount in pod["spec"]["containers"][0]["volumeMounts"]}
    assert mounts["saved"] == {"name": "saved", "mountPath": "/berth/saved"}
    assert (savedclaim.manifest(named) is None) == (where == STATES)


@pytest.mark.parametrize(("memory", "size"), [("512Mi", "768Mi"), ("4Gi", "5120Mi"), ("1000M", "1210Mi")])
def test_a_claim_of_its_own_has_room_for_memory_that_nothing_compresses(memory: str, size: str) -> None:
    made = savedclaim.manifest(of(spec(memory={"size": memory}, savedState={"claim": {}})))
    assert made is not None
    assert made["spec"] == {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": size}}}


def test_a_claim_of_its_own_has_room_for_the_disks_that_go_along() -> None:
    disks = [
        {"name": "a", "empty": {}, "size": "3Gi"},
        {"name": "b", "container": {"image": "example.org/d:1"}, "size": "2Gi"},
        {"name": "c", "container": {"image": "example.org/d:1"}, "readOnly": True},
        {"name": "d", "pvc": {"claimName": "c"}, "size": "90Gi"},
    ]
    made = savedclaim.manifest(of(spec(memory={"size": "512Mi"}, savedState={"claim": {}}, disks=disks)))
    assert made is not None
    assert made["spec"]["resources"]["requests"]["storage"] == f"{768 + 5 * 1024}Mi"


def test_a_claim_of_its_own_is_as_it_is_wanted_and_has_a_name_that_fits() -> None:
    wanted = {"claim": {"size": "9Gi", "storageClassName": "fast", "accessMode": "ReadWriteMany"}}
    made = savedclaim.manifest(replace(of(spec(savedState=wanted)), name="m" * 253))
    assert made is not None
    assert made["spec"]["resources"] == {"requests": {"storage": "9Gi"}}
    assert (made["spec"]["storageClassName"], made["spec"]["accessModes"]) == ("fast", ["ReadWriteMany"])
    assert len(made["metadata"]["name"]) <= 253


def test_a_restored_machine_is_made_as_it_was_and_placed_as_it_is_wanted() -> None:
    before = spec(memory={"size": "1Gi"})
    now = spec(memory={"size": "2Gi"}, placement={"nodeSelector": {"zone": "b"}})
    saved = SavedStateStatus(epoch=1, at="2026-01-01T00:00:00Z", machine=berthpod.freeze(before))
    made = restoring.spec(of(now, VirtualMachineStatus(saved_state=saved)))
    assert made is not None
    assert made.memory.size == "1Gi"
    assert made.placement.node_selector == {"zone": "b"}
    assert restoring.spec(of(now)) == now
    spoiled = saved.model_copy(update={"machine": "{"})
    assert restoring.spec(of(now, VirtualMachineStatus(saved_state=spoiled))) == now
