"""A limit on what a device sends: a network interface's name and a LimitOrder in, a token bucket filter on it.

Called by podnic.py and the other kinds of NIC, in the network namespace that the device is in: what goes to the guest
is limited where it leaves through the tap, what comes from it where it leaves through the device on the other side.
What is right already is left alone, so that no queue is emptied; without a limit only our own filter is taken away.
"""

from __future__ import annotations

from typing import Final

from berth.api.order import LimitOrder
from berth.effects import tbf
from berth.effects.rtnetlink import NetlinkError, Route
from berth.errors import HostFault

HANDLE: Final = 0xBE27_0000
"""Ours: a filter under another name was put there by somebody else."""


def shape(device: str, limit: LimitOrder | None) -> bool:
    """Make it so; True when something was changed."""
    try:
        with Route() as route:
            return _shape(route, device, limit)
    except NetlinkError as error:
        what = f"limited to {limit.bits_per_second} bit/s" if limit else "freed of its limit"
        message = f"{device} cannot be {what}: {error}; does the node's kernel have sch_tbf?"
        raise HostFault(message, reason="BandwidthFailed") from error


def _shape(route: Route, device: str, limit: LimitOrder | None) -> bool:
    link = next((link for link in route.links() if link.name == device), None)
    if link is None:
        raise HostFault(f"{device} is not there: its bandwidth cannot be limited", reason="NetworkFailed")
    seen = route.root_qdisc(link.index)
    ours = seen is not None and (seen.handle, seen.kind) == (HANDLE, tbf.KIND)
    if limit is None:
        if ours:
            route.delete_root_qdisc(link.index)
        return ours
    want = tbf.bucket(limit.bits_per_second, limit.burst_bytes, link.mtu)
    if ours and seen is not None and tbf.matches(seen.options, want):
        return False
    route.set_root_qdisc(link.index, HANDLE, tbf.KIND, tbf.encode(want))
    return True
