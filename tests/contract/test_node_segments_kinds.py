"""What else than an overlay a guest can be joined to: a node's own bridge, a VLAN, an interface of its pod."""

from __future__ import annotations

import pytest

from berth.api.order import NicKind, SegmentKind, SegmentOrder
from berth.errors import HostFault
from tests.contract.lan import run
from tests.contract.segment_lab import Guest, Lab, Node, up

UID = "7c1b3c0e-1c55-4d9e-9a3b-222222222222"


class TestBridge:
    """A bridge that the node has."""

    ORDER = SegmentOrder(uid=UID, name="lab/lan", kind=SegmentKind.BRIDGE, device="br-lab")

    def test_guests_are_on_it_and_it_stays(self, lab: Lab) -> None:
        node = lab.node()
        node.run("ip link add br-lab type bridge; ip link set br-lab up; ip addr add 10.9.0.1/24 dev br-lab")
        node.run("ip link add card mtu 1480 address f2:00:00:00:00:01 type veth peer name cable")
        node.run("ip link set card master br-lab up")
        one, other = up(lab, node, node, order=self.ORDER)
        assert one.attach() == []
        assert one.pings(other.address())
        assert one.pings("10.9.0.1")
        assert "f2:00:00:00:00:01" in node.run("ip link show br-lab")  # the node is known by it
        assert "mtu 1480" in run(one.netns, "ip link show vm-lan")
        other.nic = other.nic.model_copy(update={"mtu": 1300})
        assert other.attach() != []
        assert "mtu 1300" in run(other.netns, "ip link show vm-lan")
        assert "mtu 1480" in node.run("ip link show br-lab")
        assert one.attach() == other.attach() == []
        for guest in (one, other):
            guest.stop()
        assert "br-lab" in node.run("ip -o link")
        assert node.run("ip -o link show master br-lab | cut -d: -f2").split() == ["card@cable"]

    def test_a_node_without_it_says_so(self, lab: Lab) -> None:
        node = lab.node()
        guest = lab.guest(node, self.ORDER)
        node.call(lambda: node.network.create_taps(guest.uid, 0, [guest.nic]))
        for script, word in (("true", "no bridge br-lab"), ("ip link add br-lab type veth", "no bridge but")):
            node.run(script)
            with pytest.raises(HostFault) as caught:
                guest.attach()
            assert caught.value.reason == "BridgeMissing"
            assert word in str(caught.value)


class TestVlan:
    ORDER = SegmentOrder(uid=UID, name="lab/v5", kind=SegmentKind.VLAN, device="eth0", vlan=5)

    def test_a_card_that_is_missing_and_a_kernel_that_cannot_are_named(self, lab: Lab) -> None:
        node = lab.node()
        guest = lab.guest(node, self.ORDER.model_copy(update={"device": "eth9"}))
        with pytest.raises(HostFault) as caught:
            guest.start()
        assert caught.value.reason == "VlanDeviceMissing"
        assert "eth9" in str(caught.value)
        guest.nic = guest.nic.model_copy(update={"segment": self.ORDER})
        if node.run("ip link add link eth0 name v9 type vlan id 9 2>/dev/null && echo yes || true"):
            guest.attach()
            assert "vlan" in node.in_space("ip -d -o link show type vlan")
            assert guest.attach() == []
            return
        with pytest.raises(HostFault) as caught:
            guest.attach()
        assert caught.value.reason == "VlanUnsupported"
        assert "8021q" in str(caught.value)
        assert node.call(node.network.segments.collect) != []  # the bridge that had been made before


class TestAttachment:
    """A further interface of the pod, as Multus adds it."""

    def guest(self, lab: Lab, node: Node, **words: object) -> Guest:
        guest = lab.guest(node, kind=NicKind.ATTACHMENT, segment=None, interface="net1", **words)
        node.run(
            f"ip link show br-net 2>/dev/null || ip link add br-net type bridge; ip link set br-net up;"
            f"ip link add n{guest.number} type veth peer name net1 netns {guest.pod.pid};"
            f"ip link set n{guest.number} master br-net up"
        )
        run(guest.netns, "ip link set net1 mtu 1450 up; ip addr add 10.9.0.99/24 dev net1")
        return guest

    def test_the_guest_is_on_it_with_its_own_addresses(self, lab: Lab) -> None:
        node = lab.node()
        one, other = (self.guest(lab, node).start() for _ in range(2))
        for guest in (one, other):
            guest.configure()
            assert guest.attach() == []
            seen = run(guest.netns, "ip addr show net1")
            assert guest.nic.mac in seen
            assert "inet" not in seen
            assert "mtu 1450" in run(guest.netns, "ip link show vm-lan")
        assert one.pings(other.address())
        assert one.pings(other.address(6))
        assert not one.pings("10.9.0.99", seconds=0.5)

    def test_a_pod_without_it_is_named(self, lab: Lab) -> None:
        guest = lab.guest(lab.node(), kind=NicKind.ATTACHMENT, segment=None, interface="net1")
        with pytest.raises(HostFault) as caught:
            guest.start()
        assert caught.value.reason == "AttachmentMissing"
        assert "net1" in str(caught.value)

    def test_a_smaller_mtu_than_the_interface_has(self, lab: Lab) -> None:
        guest = self.guest(lab, lab.node(), mtu=1300)
        guest.start()
        assert guest.attach() == []
        assert "mtu 1300" in run(guest.netns, "ip link show vm-lan")
        assert "mtu 1450" in run(guest.netns, "ip link show net1")
