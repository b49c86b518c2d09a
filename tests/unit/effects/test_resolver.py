"""resolv.conf, as kubelet and others write it."""

from __future__ import annotations

import ipaddress

from hypothesis import given
from hypothesis import strategies as st

from berth.effects import resolver
from berth.effects.resolver import Resolver


def test_servers_of_both_families_and_the_last_search_list() -> None:
    servers = "nameserver 10.96.0.10\nnameserver fd00::10\n# x\noptions ndots:5\nnameserver 1.1.1.1\n"
    text = f"domain old\nsearch a.b c.d\n{servers}"
    assert resolver.parse(text) == Resolver(
        (ipaddress.IPv4Address("10.96.0.10"), ipaddress.IPv4Address("1.1.1.1")),
        ("a.b", "c.d"),
        (ipaddress.IPv6Address("fd00::10"),),
    )
    assert resolver.parse("nameserver\nsearch\n") == Resolver()


def test_servers_that_only_the_pod_could_reach_are_left_out() -> None:
    text = "nameserver 127.0.0.53\nnameserver ::1\nnameserver fe80::1%eth0\nnameserver 169.254.20.10\n"
    assert resolver.parse(text) == Resolver((ipaddress.IPv4Address("169.254.20.10"),))


@given(st.text())
def test_any_text_is_survived(text: str) -> None:
    found = resolver.parse(text)
    assert len(found.dns) <= 3
    assert len(found.dns6) <= 3
