"""The hand-over of a running guest from one node to another: what each side has seen in, what it may do out.

Two agents, no third party: ``source`` and ``target`` are total over what each side can have seen, and so is ``let_go``,
the source's answer to the only question that matters. Whatever crashes, at most one copy runs, because

    - the target's copy is made with its CPUs stopped, and is let run (TAKE_OVER) only after the source's YES;
    - the source begins to let go (ACT) only while libvirt's own answer about the migration is held back (HELD), so that
      libvirt cannot have let the guest run on; it freezes QEMU with SIGSTOP, so that nobody can any more, looks at that
      again, and only then writes it down. From there on there is only one way: kill it, see it dead, say YES;
    - what the source has once answered it answers for ever: each answer is written down before it is given.

moving.py puts what an agent gathered into these words; tests explore every order of events with every crash.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass
from typing import Final, assert_never

HOLD_PATIENCE: Final = 10.0
"""Seconds that the source's guest stands still for a target that does not ask: it runs on here then."""


class Sent(enum.Enum):
    """The source's record of one migration, which outlives its agent."""

    NONE = "not begun"
    SENDING = "sending"
    LETTING_GO = "letting go"  # its QEMU is frozen, about to be killed, or was: it never runs again
    HANDED_OVER = "handed over"
    FAILED = "failed"


class Gate(enum.Enum):
    """The source agent's own transfer: libvirt's connection to the other libvirt goes through its hands."""

    NONE = "no transfer"  # a new agent has none: with the old one libvirt's connection ended
    OPEN = "open"
    HELD = "held"  # all memory is there; the answer that says so is kept from the source's libvirt
    ENDED = "ended"  # the connection is over: libvirt is about to let the guest run on


class Qemu(enum.Enum):
    """The source's QEMU."""

    RUNS = "runs"
    STOPPED = "stopped by the migration"
    GONE = "gone"
    UNKNOWN = "unknown"  # libvirt does not answer


class Copy(enum.Enum):
    """The target's copy."""

    NONE = "no copy"
    COMING = "its memory comes in"
    COMPLETE = "complete, stopped"
    RUNS = "runs"
    UNKNOWN = "unknown"


class Taken(enum.Enum):
    """The target's record, which outlives its agent."""

    NONE = "nothing"
    OURS = "it is ours"  # the start record: the source said yes
    FAILED = "failed"


class Answer(enum.Enum):
    """The source's word, as the target heard it."""

    NONE = "not asked"
    YES = "yes"
    NO = "no"


@dataclass(frozen=True, slots=True)
class SourceSeen:
    sent: Sent = Sent.NONE
    gate: Gate = Gate.NONE
    qemu: Qemu = Qemu.RUNS
    wanted: bool = True  # ordered, and its deadline is not over
    patient: bool = True  # HELD for less than HOLD_PATIENCE


@dataclass(frozen=True, slots=True)
class TargetSeen:
    taken: Taken = Taken.NONE
    copy: Copy = Copy.NONE
    answer: Answer = Answer.NONE
    ready: bool = False  # disks and taps are there
    leaving: bool = False  # its pod is to end


class Send(enum.Enum):
    """What the source does next."""

    REST = "nothing"
    BEGIN = "write down that it sends, then send"
    WAIT = "wait"
    GIVE_UP = "end the transfer: libvirt lets the guest run on"
    FAIL = "write down that it failed, then thaw QEMU"
    RUN_ON = "let the guest run on, which nobody else would"
    FINISH = "kill QEMU, see it dead, write that down"
    DOOR = "be a door"


class Take(enum.Enum):
    """What the target does next."""

    PREPARE = "prepare disks and network"
    LISTEN = "wait for the source"
    RECEIVE = "wait for the rest of the memory"
    ASK = "ask the source to let go"
    TAKE_OVER = "write down that it is ours, then let it run"
    THROW_AWAY = "write down that it failed, then destroy the copy"
    RUN = "serve it as any other"
    REST = "nothing"


class Reply(enum.Enum):
    """The source's answer to the target that asks it to let go."""

    YES = "yes"
    NO = "write down that it failed: then no"
    LATER = "ask again"
    ACT = "freeze QEMU, see that libvirt's answer is still held back, write down that it lets go, finish: then yes"
    FINISH = "kill QEMU, see it dead, write that down: then yes"


def let_go(seen: SourceSeen) -> Reply:
    """Asked by the target's agent, as often as it likes."""
    match seen.sent:
        case Sent.HANDED_OVER:
            return Reply.YES
        case Sent.NONE | Sent.FAILED:
            return Reply.NO
        case Sent.LETTING_GO:
            return Reply.FINISH
        case Sent.SENDING:
            if seen.gate is Gate.HELD:
                return Reply.ACT if seen.wanted and seen.patient else Reply.NO
            return Reply.LATER if seen.gate is Gate.OPEN else Reply.NO
    assert_never(seen.sent)


def source(seen: SourceSeen) -> Send:
    match seen.sent:
        case Sent.NONE:
            return Send.BEGIN if seen.wanted and seen.qemu is Qemu.RUNS else Send.REST
        case Sent.SENDING:
            return _sending(seen)
        case Sent.LETTING_GO:
            return Send.FINISH
        case Sent.HANDED_OVER:
            return Send.DOOR
        case Sent.FAILED:
            return Send.RUN_ON if seen.qemu is Qemu.STOPPED and seen.gate is Gate.NONE else Send.REST
    assert_never(seen.sent)


def _sending(seen: SourceSeen) -> Send:
    match seen.gate:
        case Gate.NONE | Gate.ENDED:
            return Send.FAIL
        case Gate.OPEN:
            return Send.WAIT if seen.wanted else Send.GIVE_UP
        case Gate.HELD:
            return Send.WAIT if seen.wanted and seen.patient else Send.GIVE_UP
    assert_never(seen.gate)


def target(seen: TargetSeen) -> Take:
    match seen.taken:
        case Taken.OURS:
            return Take.RUN
        case Taken.FAILED:
            return Take.THROW_AWAY if seen.copy in (Copy.COMING, Copy.COMPLETE) else Take.REST
        case Taken.NONE:
            return _taking(seen)
    assert_never(seen.taken)


def _taking(seen: TargetSeen) -> Take:
    match seen.copy:
        case Copy.NONE:
            if seen.leaving:
                return Take.REST
            return Take.LISTEN if seen.ready else Take.PREPARE
        case Copy.COMING:
            return Take.THROW_AWAY if seen.leaving else Take.RECEIVE
        case Copy.COMPLETE:
            return _complete(seen.answer)
        case Copy.RUNS:
            return Take.RUN  # somebody else let it: not this code's doing, and not for it to end
        case Copy.UNKNOWN:
            return Take.REST
    assert_never(seen.copy)


def _complete(answer: Answer) -> Take:
    match answer:
        case Answer.NONE:
            return Take.ASK
        case Answer.YES:
            return Take.TAKE_OVER
        case Answer.NO:
            return Take.THROW_AWAY
    assert_never(answer)


_ARROWS: Final[tuple[tuple[str, str, str], ...]] = (
    ("[*]", "Listening", "target#58; disks and network are ready"),
    ("Listening", "Sending", "source writes down that it sends"),
    ("Sending", "Received", "all memory is there; libvirt's answer is held at the source"),
    ("Received", "LettingGo", "the target asks; the source freezes its QEMU, writes that down and kills it"),
    ("LettingGo", "HandedOver", "the source's QEMU is dead"),
    ("HandedOver", "Arrived", "target#58; writes down that it is its own, lets it run"),
    ("Sending", "Failed", "cancel, deadline, a crash: libvirt lets the guest run on at the source"),
    ("Received", "Failed", "nobody asks in time, cancel, a crash: the same"),
    ("Failed", "[*]", "the target throws its copy away when the source says no"),
)


def diagram() -> str:
    """The hand-over as a Mermaid state diagram."""
    lines = ["stateDiagram-v2", *(f"    {old} --> {new}: {why}" for old, new, why in _ARROWS)]
    return "\n".join(lines) + "\n"
