"""What Orders and Reports say of a machine that moves to another node while it runs. Part of order.py's words.

Two berths hold a place for the machine then: the source's, where it runs, and the target's, whose Order has the next
epoch. The guest's copy at the target is made with its CPUs stopped, and stays so until the source has ended its own for
good and said so: never two that run. Afterwards the source's berth is a door: what still comes for its pod IP goes
through it to the target.
"""

from __future__ import annotations

import enum

from pydantic import Field

from berth.api.base import Lenient


class Peer(Lenient):
    """The other side's agent. Its node's name is what its certificate must prove."""

    node: str
    address: str
    port: int


class DoorOrder(Lenient):
    """An earlier berth of this machine, through which connections still come. ``number`` names it for packet marks and
    for the tunnel's VNI: 1 to 255, never two alike for one machine at a time. A list of them is in the order in which
    the guest left them: the last is where it came from."""

    number: int = Field(ge=1, le=255)
    node: str
    pod_uid: str
    addresses: tuple[str, ...]  # the pod's, without prefix lengths, at most one of a family


class Incoming(Lenient):
    """The guest comes from another node: QEMU waits for its memory instead of booting."""

    migration: str  # the Migration's uid
    source: Peer
    epoch: int  # of the start that it comes from
    released: bool = False  # the machine's status names this berth: the source has told the controller that it let go


class Outgoing(Lenient):
    """Send the guest to another node. Taken out of the order before the hand-over: give up, it stays here."""

    migration: str
    target: Peer
    epoch: int  # of the target's order
    bytes_per_second: int | None = None  # None: as fast as it goes
    downtime_ms: int = 300  # the guest may stand still for so long at the end
    deadline: str | None = None  # RFC 3339; given up then, though the controller be silent


class Forward(Lenient):
    """For an order whose guest has been handed over: where this berth's pod IP leads to now."""

    door: DoorOrder  # this berth itself
    node: str
    addresses: tuple[str, ...]  # of the pod where the guest is
    others: tuple[str, ...] = ()  # of all other pods of the machine: where it was, and where it is about to go


class Flow(Lenient):
    """One connection, as the guest sees it: what the target must know to answer through the door it came in by."""

    door: int  # the number of the berth whose pod IP the other side talks to
    protocol: int  # of IP
    guest: str
    guest_port: int  # of an echo: its identifier
    peer: str
    peer_port: int
    outgoing: bool = False  # the guest began
    state: int = 0  # of TCP, as conntrack numbers them
    status: int = 0  # conntrack's bits: 2 answered, 4 assured
    seconds: int = 30  # after so long without a packet it is forgotten


class MigrationState(enum.StrEnum):
    """How far one side is with a hand-over; see plan/handover.py."""

    SURVEYED = "Surveyed"  # source, for ``leaving``: what is known before anything is sent
    LISTENING = "Listening"  # target: all is ready for the guest's memory
    SENDING = "Sending"  # source: memory goes over, the guest runs
    RECEIVED = "Received"  # target: all of it is here, its CPUs are stopped; the source is asked to let go
    HANDED_OVER = "HandedOver"  # source: its own copy has ended for good
    ARRIVED = "Arrived"  # target: it runs here
    FAILED = "Failed"  # source: it still runs here. Target: what had come was thrown away


class MigrationReport(Lenient):
    """One side's word on a migration; sizes in bytes, times in milliseconds."""

    uid: str  # the Migration's
    epoch: int  # of the target's order
    state: MigrationState
    total: int = 0
    remaining: int = 0
    sent: int = 0
    bytes_per_second: int = 0
    dirty_bytes_per_second: int = 0
    rounds: int = 0
    throttle: int = 0  # by how much the guest's CPUs are slowed down, in per cent
    method: str = ""  # for people: what was chosen and why
    alone: bool = False  # target, RECEIVED: the source's agent does not answer
    eta_seconds: int | None = None  # until it runs at the target, as it looks now
    pause_ms: int | None = None  # target, once ARRIVED: how long the guest stood still
    reason: str = ""  # FAILED: why, in one word
    message: str = ""
