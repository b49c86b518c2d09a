"""What a machine's status says of its interfaces: what was given to them, and what the guest says of them.

Called by status.py. Pure. What was assigned never hides what the guest reports, nor the other way round; what the guest
said stays said while nobody can ask it.
"""

from __future__ import annotations

from berth.api.devices import Nic
from berth.api.virtualmachine import NicStatus
from berth.plan import networks
from berth.plan.berthpod import attachment
from berth.plan.orders import frozen_nics
from berth.plan.world import World


def statuses(world: World, *, living: bool) -> list[NicStatus]:
    """One for each interface; for a machine without a berth, those that keep addresses on a Network."""
    found = [_status(world, nic, living=living) for nic in networks.nics(world)]
    return [nic for nic in found if living or nic.network.startswith("network/")]


def _status(world: World, nic: Nic, *, living: bool) -> NicStatus:
    mac = networks.mac_of(world.machine.uid, nic)
    name, addresses = _guest_says(world, mac) if living else (None, [])
    return NicStatus(
        name=nic.name,
        network=_network(world, nic),
        mac=mac,
        addresses=_given(world, nic, living=living)[:16],
        guest_name=name,
        guest_addresses=addresses,
    )


def _network(world: World, nic: Nic) -> str:
    key = networks.key_of(nic, world.machine.namespace)
    if key is not None:
        return f"network/{key[0]}/{key[1]}"
    if nic.multus is not None:
        return f"multus/{nic.multus.namespace or world.machine.namespace}/{nic.multus.name}"
    return "pod" if nic.pod is not None else f"device/{nic.device.resource if nic.device else ''}"


def _given(world: World, nic: Nic, *, living: bool) -> list[str]:
    key = networks.key_of(nic, world.machine.namespace)
    if key is not None:
        segment = world.networks.get(key)
        held = segment.lease_of(world.machine.uid, nic.name) if segment is not None else None
        return list(held.addresses) if held is not None else []
    berth = world.berth
    if berth is None or not living:
        return []
    if nic.multus is not None:
        return list(dict(berth.attachments).get(attachment(frozen_nics(berth), nic.name), ()))
    return list(berth.ips or ((berth.ip,) if berth.ip else ())) if nic.pod is not None else []


def _guest_says(world: World, mac: str) -> tuple[str | None, list[str]]:
    """By the agent's word; while that is silent, what this start's status said before."""
    report, status = world.report, world.machine.status
    if report is not None and report.guest_nics:
        said = next((nic for nic in report.guest_nics if nic.mac.lower() == mac), None)
        return (said.name or None, list(said.addresses)) if said is not None else (None, [])
    if report is not None and report.guest is not None:
        return None, []
    same = status is not None and world.berth is not None and status.epoch == world.berth.epoch
    old = next((nic for nic in (status.nics if status is not None and same else ()) if nic.mac == mac), None)
    return (old.guest_name, list(old.guest_addresses)) if old is not None else (None, [])
