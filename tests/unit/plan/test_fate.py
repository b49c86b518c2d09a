"""How a guest ended: each cause, and which one wins."""

from __future__ import annotations

import pytest

from berth.api.order import FateReason
from berth.plan.fate import Ending, fate

AT = "2026-11-23T10:00:00Z"
SIGNAL = "qemu-system-x86_64: terminating on signal 15 from pid 9"


@pytest.mark.parametrize(
    ("ending", "reason", "code"),
    [
        (Ending(stopped="shutdown"), FateReason.GUEST_POWEROFF, 0),
        (Ending(stopped="shutdown", shutdown_asked=True), FateReason.SHUT_DOWN, 0),
        (Ending(stopped="shutdown", by_host=True), FateReason.KILLED, 1),
        (Ending(stopped="failed", last_words=SIGNAL), FateReason.KILLED, 1),
        (Ending(stopped="failed"), FateReason.KILLED, 1),
        (Ending(stopped="failed", last_words="block driver: assertion failed"), FateReason.QEMU_CRASHED, 1),
        (Ending(stopped="failed", shutdown_asked=True), FateReason.FORCED_OFF, 1),
        (Ending(stopped="destroyed", berth_lost=True), FateReason.FORCED_OFF, 1),
        (Ending(stopped="destroyed"), FateReason.KILLED, 1),
        (Ending(stopped="crashed", panicked=True), FateReason.GUEST_PANICKED, 1),
        (Ending(stopped="crashed", panicked=True, shutdown_asked=True), FateReason.GUEST_PANICKED, 1),
        (Ending(berth_lost=True), FateReason.UNKNOWN, 1),
        (Ending(), FateReason.UNKNOWN, 1),
        (Ending(shutdown_asked=True), FateReason.FORCED_OFF, 1),
    ],
)
def test_fate(ending: Ending, reason: FateReason, code: int) -> None:
    told = fate(ending, AT)
    assert (told.reason, told.exit_code, told.at) == (reason, code, AT)
    assert told.message


def test_what_qemu_said_last_is_told() -> None:
    assert SIGNAL in fate(Ending(stopped="failed", last_words=SIGNAL), AT).message
