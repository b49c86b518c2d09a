"""How a guest ended: what libvirt and the berth said in, one Fate out. Called by the agent; no clock, no I/O."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from berth.api.order import Fate, FateReason

SAVED: Final = "its state is saved"
"""Also the last words of its berth: they are in the pod's status when nobody else can tell."""


@dataclass(frozen=True, slots=True)
class Ending:
    """What was seen of a guest's end. The defaults are those of a guest that ended while nobody looked."""

    stopped: str | None = None
    """libvirt's word in the event: "shutdown", "destroyed", "crashed", "failed" …; None: no event was seen."""
    by_host: bool = False
    """QEMU said that a signal, not the guest, made it shut down."""
    panicked: bool = False
    shutdown_asked: bool = False
    """The berth said that its pod was to end, before the guest did."""
    cut_off: str = ""
    """Why Berth itself ended it, not because of its pod's end."""
    berth_lost: bool = False
    """The berth process went before the guest did."""
    saved: bool = False
    """Its state is in its volume, whole."""
    last_words: str = ""
    """QEMU's own last line in libvirt's log."""


def fate(ending: Ending, at: str) -> Fate:
    """The first cause that explains it."""
    reason, message = _cause(ending)
    orderly = reason in (FateReason.GUEST_POWEROFF, FateReason.SHUT_DOWN, FateReason.SAVED)
    return Fate(reason=reason, exit_code=0 if orderly else 1, message=message, at=at)


def _cause(e: Ending) -> tuple[FateReason, str]:
    said = f": {e.last_words}" if e.last_words else ""
    if e.saved:
        return FateReason.SAVED, SAVED
    if e.panicked:
        return FateReason.GUEST_PANICKED, "the guest's kernel panicked; its last lines are in the berth's log"
    if e.cut_off:
        return FateReason.FORCED_OFF, f"cut off: {e.cut_off}"
    if e.stopped == "shutdown" and not e.by_host:
        if e.shutdown_asked:
            return FateReason.SHUT_DOWN, "shut down as asked"
        return FateReason.GUEST_POWEROFF, "the guest powered itself off"
    if e.shutdown_asked or (e.berth_lost and e.stopped is not None):
        why = "the grace period was over" if e.shutdown_asked else "its berth was gone"
        return FateReason.FORCED_OFF, f"cut off: {why}"
    if e.stopped is None:
        return FateReason.UNKNOWN, f"it ended while the node's agent was away{said}"
    if e.stopped == "destroyed":
        return FateReason.KILLED, "ended through libvirt by somebody other than Berth"
    if e.by_host or "terminating on signal" in e.last_words:
        return FateReason.KILLED, f"QEMU was ended by a signal{said}"
    if not e.last_words:
        return FateReason.KILLED, "QEMU ended without a word: killed by a signal, by the kernel when memory was short?"
    return FateReason.QEMU_CRASHED, f"QEMU failed{said}"
