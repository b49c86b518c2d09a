"""A hostile guest, really a guest: what it sends on a segment reaches no neighbour, and it reaches no more than a pod.

tests/contract sends many more frames, from a namespace that plays the guest. Here QEMU's own card sends them.
"""

from __future__ import annotations

import ipaddress
import struct
import uuid
from collections.abc import Callable

import pytest

from testbed.kube import CLIENT, Cluster, Json, Machine, in_client, tiny, wait
from tests.contract import hostile
from tests.e2e.test_network_segments import POD, lan, network

Make = Callable[..., Machine]
MARK = bytes.fromhex("be47be47be47be47")
"""What the neighbour listens for: no honest frame holds it."""
MALLORY, VICTIM, STRANGER = "02:00:00:00:66:01", "02:00:00:00:66:02", "02:00:00:00:66:99"
MALLORY_V4, VICTIM_V4, GATEWAY_V4 = "10.77.0.66", "10.77.0.67", "10.77.0.1"
MALLORY_V6, VICTIM_V6 = "fd77::66", "fd77::67"
BROADCAST, ALL_NODES = "ff:ff:ff:ff:ff:ff", "33:33:00:00:00:01"


def mac(text: str) -> bytes:
    return bytes.fromhex(text.replace(":", ""))


def ether(to: str, source: str, kind: int, payload: bytes) -> bytes:
    return hostile.ethernet(kind, payload, to=mac(to), by=mac(source))


def ipv4(source: str, to: str, protocol: int, payload: bytes) -> bytes:
    return hostile.ip4(to, payload, source, protocol)


def udp(source: int, to: int, payload: bytes) -> bytes:
    return hostile.udp(payload, (source, to))


def ipv6(source: str, to: str, kind: int, payload: bytes) -> bytes:
    return hostile.ip6(to, payload, source, kind, hops=255)


def icmpv6(source: str, to: str, kind: int, body: bytes) -> bytes:
    return ipv6(source, to, 58, hostile.icmp6(source, to, bytes([kind, 0, 0, 0]) + body))


def arp(operation: int, sender: str, sender_ip: str, target_ip: str) -> bytes:
    head = struct.pack("!HHBBH", 1, 0x0800, 6, 4, operation)
    ends = mac(sender) + ipaddress.IPv4Address(sender_ip).packed + bytes(6) + ipaddress.IPv4Address(target_ip).packed
    return head + ends + MARK


HONEST = ether(VICTIM, MALLORY, 0x0800, ipv4(MALLORY_V4, VICTIM_V4, 17, udp(4000, 4001, MARK)))
HONEST_V6 = ether(VICTIM, MALLORY, 0x86DD, ipv6(MALLORY_V6, VICTIM_V6, 17, udp(4000, 4001, MARK)))
LINK_LOCAL = "fe80::ff:fe00:6601"
ATTACKS = {
    "another's MAC address": ether(VICTIM, STRANGER, 0x0800, ipv4(MALLORY_V4, VICTIM_V4, 17, udp(1, 2, MARK))),
    "another's IPv4 address": ether(VICTIM, MALLORY, 0x0800, ipv4("10.77.0.99", VICTIM_V4, 17, udp(1, 2, MARK))),
    "another's IPv6 address": ether(VICTIM, MALLORY, 0x86DD, ipv6("fd77::99", VICTIM_V6, 17, udp(1, 2, MARK))),
    "ARP: the victim is here": ether(BROADCAST, MALLORY, 0x0806, arp(2, MALLORY, VICTIM_V4, VICTIM_V4)),
    "ARP: the gateway is here": ether(BROADCAST, MALLORY, 0x0806, arp(2, MALLORY, GATEWAY_V4, VICTIM_V4)),
    "ARP: somebody else's card": ether(BROADCAST, MALLORY, 0x0806, arp(2, STRANGER, MALLORY_V4, VICTIM_V4)),
    "a neighbour advertisement for the victim": ether(
        ALL_NODES, MALLORY, 0x86DD,
        icmpv6(MALLORY_V6, "ff02::1", 136, bytes(4) + ipaddress.IPv6Address(VICTIM_V6).packed + MARK),
    ),
    "a router advertisement": ether(
        ALL_NODES, MALLORY, 0x86DD, icmpv6(LINK_LOCAL, "ff02::1", 134, struct.pack("!BBHII", 64, 0, 9000, 0, 0) + MARK)
    ),
    "an ICMPv6 redirect": ether(
        VICTIM, MALLORY, 0x86DD, icmpv6(LINK_LOCAL, VICTIM_V6, 137, bytes(4 + 32) + MARK)
    ),
    "an ICMP redirect": ether(VICTIM, MALLORY, 0x0800, ipv4(MALLORY_V4, VICTIM_V4, 1, b"\5\1\0\0" + bytes(4) + MARK)),
    "a DHCP server's answer": ether(BROADCAST, MALLORY, 0x0800, ipv4(MALLORY_V4, "255.255.255.255", 17,
                                                                     udp(67, 68, MARK))),
    "a DHCPv6 server's answer": ether(VICTIM, MALLORY, 0x86DD, ipv6(MALLORY_V6, VICTIM_V6, 17, udp(547, 546, MARK))),
    "a DHCP request for others to answer": ether(BROADCAST, MALLORY, 0x0800, ipv4("0.0.0.0", "255.255.255.255", 17,
                                                                                  udp(68, 67, MARK))),
    "an 802.1Q tag": ether(VICTIM, MALLORY, 0x8100, struct.pack("!HH", 5, 0x0800) + HONEST[14:]),
    "two tags": ether(VICTIM, MALLORY, 0x88A8, struct.pack("!HHHH", 5, 0x8100, 6, 0x0800) + HONEST[14:]),
    "another ethertype": ether(VICTIM, MALLORY, 0x88CC, MARK),
    "an IPv4 header that lies about its length": ether(VICTIM, MALLORY, 0x0800, b"\x4f" + HONEST[15:]),
    "a frame that ends within its header": ether(VICTIM, MALLORY, 0x0800, MARK),
}  # fmt: skip


@pytest.fixture
def pair(cluster: Cluster, namespace: str, make: Make) -> tuple[Machine, Machine]:
    """Mallory and her victim, on one segment."""
    cluster.apply(network(), namespace=namespace)
    both = []
    for name, card, v4, v6 in (("mallory", MALLORY, MALLORY_V4, MALLORY_V6), ("victim", VICTIM, VICTIM_V4, VICTIM_V6)):
        both.append(make(tiny(name, nics=[POD, lan(v4, v6, mac=card)])))
    for machine in both:
        machine.wait_up(90)
    return both[0], both[1]


def heard(mallory: Machine, victim: Machine, frames: list[bytes]) -> list[str]:
    """The marked frames that the victim's card receives: it listens before Mallory sends these, each a few times, and
    until an honest frame that she sends after them has come."""
    file = f"/tmp/heard-{uuid.uuid4().hex[:8]}"
    listen = f"frames listen eth1 300 {MARK.hex()} >{file} 2>&1 </dev/null & echo $! >{file}.pid"
    victim.shell(f"{listen}; until grep -q listening {file}; do sleep 0.1; done")
    for frame in frames:
        said = mallory.shell(f"frames send eth1 {frame.hex()} 3")
        assert said.startswith("sent 3"), said

    def came() -> list[str]:
        assert mallory.shell(f"frames send eth1 {HONEST.hex()} 1").startswith("sent 1")
        lines = [line for line in victim.shell(f"cat {file}").splitlines() if MARK.hex() in line]
        return lines if any(line.startswith(HONEST.hex()) for line in lines) else []

    found = wait("the honest frame is heard", came, 30)
    victim.shell(f"kill $(cat {file}.pid); rm {file} {file}.pid")
    return found


def test_no_frame_of_a_hostile_guest_reaches_its_neighbour(pair: tuple[Machine, Machine]) -> None:
    mallory, victim = pair
    came = heard(mallory, victim, list(ATTACKS.values()))
    through = {name for name, frame in ATTACKS.items() for line in came if line.startswith(frame.hex()[:80])}
    assert not through
    assert {line[: len(HONEST) * 2] for line in came} == {HONEST.hex()}
    came = heard(mallory, victim, [HONEST_V6])
    assert any(line.startswith(HONEST_V6.hex()) for line in came), "IPv6 between the two works"


def test_an_opted_out_guest_sends_as_it_likes_on_its_segment(cluster: Cluster, pair: tuple[Machine, Machine]) -> None:
    mallory, victim = pair
    strange = ether(VICTIM, STRANGER, 0x0800, ipv4("10.77.0.99", VICTIM_V4, 17, udp(1, 2, MARK)))

    def gets_through() -> bool:
        return any(line.startswith(strange.hex()) for line in heard(mallory, victim, [strange]))

    assert not gets_through()
    mallory.patch({"nics": [POD, lan(MALLORY_V4, MALLORY_V6, mac=MALLORY, antiSpoofing=False)]})
    wait("her frames get through", gets_through, 30)


PORTS = (22, 53, 111, 2379, 6443, 8553, 8554, 10248, 10250, 10256, 14789)


def test_a_guest_reaches_of_the_node_what_a_pod_there_reaches_and_no_more(cluster: Cluster, make: Make) -> None:
    client = cluster.get(f"/api/v1/namespaces/{CLIENT[0]}/pods/{CLIENT[1]}") or {}
    node, host = client["spec"]["nodeName"], client["status"]["hostIP"]
    guest = make(tiny("guest", placement={"nodeSelector": {"kubernetes.io/hostname": node}}))
    guest.wait_up(90)
    targets = [f"{address} {port}" for address in (host, "169.254.169.254", "169.254.1.1") for port in PORTS]
    probe = "; ".join(f"nc -w 1 -z {target} </dev/null >/dev/null 2>&1 && echo open {target}" for target in targets)
    probe += "; true"
    by_pod = set(in_client(cluster, "sh", "-c", probe, seconds=120).splitlines())
    by_guest = {line for line in guest.shell(probe, 120).splitlines() if line.startswith("open")}
    assert by_guest <= by_pod
    assert any(line.endswith(" 10250") for line in by_pod)  # a kubelet listens on every node: the probe finds it
    own = "; ".join(f"nc -w 1 -z 10.0.2.1 {port} </dev/null >/dev/null 2>&1 && echo open {port}" for port in PORTS)
    assert "open" not in guest.shell(f"{own}; true", 60)


def test_the_agents_api_refuses_a_guest(cluster: Cluster, make: Make) -> None:
    """It answers nobody without a certificate of the cluster's own authority."""
    guest = make(tiny("guest"))
    guest.wait_up(90)
    host: Json = guest.berth() or {}
    address = host["status"]["hostIP"]
    said = guest.shell(f"wget -T 3 -qO- https://{address}:8553/v1/vms 2>&1 || echo refused", 30)
    assert "refused" in said
    assert "uid" not in said
