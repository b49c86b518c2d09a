"""Pods get the further interfaces they ask for, as Multus gives them, and leave nothing of them."""

from __future__ import annotations

import json
from typing import Any

from testbed.kube import Json, wait

from .conftest import Space, pod

WANTED, STATUS = "k8s.v1.cni.cncf.io/networks", "k8s.v1.cni.cncf.io/network-status"


def definition(name: str, bridge: str) -> Json:
    ranges = [[{"subnet": "10.77.0.0/24"}], [{"subnet": "fd77::/64"}]]
    address_management = {"type": "host-local", "dataDir": "/run/cni-ipam", "ranges": ranges}
    plugin = {"type": "bridge", "bridge": bridge, "ipam": address_management}
    body = {"cniVersion": "1.0.0", "name": name, "plugins": [plugin, {"type": "tuning"}]}
    return {
        "apiVersion": "k8s.cni.cncf.io/v1",
        "kind": "NetworkAttachmentDefinition",
        "metadata": {"name": name},
        "spec": {"config": json.dumps(body)},
    }


def asking(name: str, node: str, networks: str) -> Json:
    manifest = pod(name, node)
    manifest["metadata"]["annotations"] = {WANTED: networks}
    return manifest


def reported(space: Space, name: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads(space.get(name)["metadata"]["annotations"][STATUS])
    return found


def test_pods_are_attached_to_a_second_network_and_taken_off_it(space: Space) -> None:
    node, bridge = space.bed.workers[0], f"br-{space.name[-8:]}"
    mac = "02:00:00:00:77:01"
    entries = json.dumps([{"name": "blue", "interface": "net7", "mac": mac}])
    space.apply(definition("blue", bridge))
    space.start(asking("one", node, f"blue,{space.name}/blue@extra"), asking("two", node, entries))
    names = [(entry["name"], entry["interface"], entry["default"]) for entry in reported(space, "one")]
    assert names[1:] == [(f"{space.name}/blue", "net1", False), (f"{space.name}/blue", "extra", False)]
    assert names[0][1:] == ("eth0", True)
    first, second = reported(space, "two")
    assert first["ips"] == space.addresses("two")
    assert (second["mac"], second["interface"]) == (mac, "net7")
    for address, option in zip(second["ips"], ("-4", "-6"), strict=True):
        space.execute("one", "ping", option, "-c", "1", "-W", "3", address)
    space.bed.cluster.kubectl("delete", "-n", space.name, "pod/one", "pod/two")
    on_bridge = ("sh", "-c", f"bridge link show | grep -c {bridge}; ls /run/cni-attach | wc -l; ls /run/cni-ipam/blue")
    wait("nothing is left", lambda: space.bed.on_node(node, *on_bridge).split()[:2] == ["0", "0"], 20)
    left = space.bed.on_node(node, "ls", "/run/cni-ipam/blue").split()
    assert not [name for name in left if name[0].isdigit() or name.startswith("fd")]
    space.bed.on_node(node, "ip", "link", "del", bridge)


def test_a_network_that_does_not_exist_is_named_in_the_pods_events(space: Space) -> None:
    space.apply(asking("lost", space.bed.workers[0], "nowhere"))
    path = f"/api/v1/namespaces/{space.name}/events"

    def said() -> bool:
        messages = [str(event.get("message")) for event in space.bed.cluster.items(path)]
        return any("nowhere" in message and "not found" in message for message in messages)

    wait("the event", said, 30)
