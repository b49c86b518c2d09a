"""Every order of events of a hand-over, with everything killed at every step and every message lost: explored whole.

The world is small: two QEMUs, libvirt's own behaviour (it lets the guest run on when its connection ends, and does not
when it is itself started anew), two agents that decide with plan/handover.py and act in steps that a kill interrupts.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from itertools import product

import pytest

from berth.plan import handover
from berth.plan.handover import Answer, Copy, Gate, Qemu, Reply, Send, Sent, SourceSeen, Take, Taken, TargetSeen


@dataclass(frozen=True, slots=True)
class World:
    # the source's node
    qemu: Qemu = Qemu.RUNS
    frozen: bool = False
    job: str = ""  # libvirt's: "" | sending | finishing | cancelling
    sent: Sent = Sent.NONE
    source_up: bool = True
    gate: Gate = Gate.NONE
    doing: tuple[str, ...] = ()  # what the source's agent has begun
    wanted: bool = True
    patient: bool = True
    # the target's node
    copy: Copy = Copy.NONE
    taken: Taken = Taken.NONE
    target_up: bool = True
    ready: bool = False
    answer: Answer = Answer.NONE
    taking: tuple[str, ...] = ()
    # between them
    asked: bool = False
    reply: Answer = Answer.NONE
    # what the test knows
    stale: bool = False  # the guest ran at the source after the copy was complete
    killed: bool = False  # a QEMU was killed by a stranger
    faults: int = 0


Moves = Iterator[tuple[str, World]]


def seen_at_source(w: World) -> SourceSeen:
    return SourceSeen(w.sent, w.gate, w.qemu, w.wanted, w.patient)


def seen_at_target(w: World) -> TargetSeen:
    return TargetSeen(w.taken, w.copy, w.answer, w.ready)


def steps(w: World) -> Moves:
    """What happens by itself."""
    if w.source_up:
        yield from source_agent(w)
    else:
        yield "the source's agent starts", replace(w, source_up=True, gate=Gate.NONE)
    if w.target_up:
        yield from target_agent(w)
    else:
        yield "the target's agent starts", replace(w, target_up=True, answer=Answer.NONE, ready=False)
    yield from libvirt(w)


ACTS: dict[Send, tuple[str, ...]] = {
    Send.BEGIN: ("note sending", "send"),
    Send.GIVE_UP: ("end the transfer",),
    Send.FAIL: ("note failed", "thaw"),
    Send.RUN_ON: ("thaw", "resume"),
    Send.FINISH: ("kill", "note handed over"),
}
ANSWERS: dict[Reply, tuple[str, ...]] = {
    Reply.YES: ("say yes",),
    Reply.NO: ("note failed", "thaw", "say no"),
    Reply.ACT: ("freeze", "look again", "note letting go", "kill", "note handed over", "say yes"),
    Reply.FINISH: ("kill", "note handed over", "say yes"),
}


def source_agent(w: World) -> Moves:
    if w.doing:
        step, rest = w.doing[0], w.doing[1:]
        yield step, act(replace(w, doing=rest), step)
        return
    if (todo := ACTS.get(handover.source(seen_at_source(w)))) is not None and useful(w):
        yield "source plans", replace(w, doing=todo)
    if w.asked and (said := ANSWERS.get(handover.let_go(seen_at_source(w)))) is not None:
        yield "source is asked", replace(w, asked=False, doing=said)


def useful(w: World) -> bool:
    """The controller has the source begin when the target listens; a transfer is given up once."""
    match handover.source(seen_at_source(w)):
        case Send.BEGIN:
            return w.ready
        case Send.GIVE_UP:
            return w.gate in (Gate.OPEN, Gate.HELD)
        case _:
            return True


def act(w: World, step: str) -> World:
    match step:
        case "note sending":
            return replace(w, sent=Sent.SENDING)
        case "send":
            listening = handover.target(seen_at_target(w)) is Take.LISTEN and w.target_up
            runs = w.qemu is Qemu.RUNS
            ok = listening and runs
            return replace(w, gate=Gate.OPEN, job="sending", copy=Copy.COMING) if ok else replace(w, gate=Gate.ENDED)
        case "end the transfer":
            return ended(w)
        case "note failed":
            return replace(ended(w), sent=Sent.FAILED) if w.sent is not Sent.NONE else w
        case "thaw":
            return replace(w, frozen=False)
        case "resume":
            return run_on(w)
        case "freeze":
            return replace(w, frozen=True)
        case "look again":
            return w if w.gate is Gate.HELD else replace(w, doing=ANSWERS[Reply.NO])
        case "note letting go":
            return replace(w, sent=Sent.LETTING_GO)
        case "kill":
            return replace(w, qemu=Qemu.GONE, job="", gate=Gate.NONE)
        case "note handed over":
            return replace(w, sent=Sent.HANDED_OVER)
        case "say yes":
            return replace(w, reply=Answer.YES)
        case "say no":
            return replace(w, reply=Answer.NO)
    raise AssertionError(step)


def ended(w: World) -> World:
    """The transfer's connections are over: libvirt at the source cancels, the target's throws half a copy away."""
    if w.gate not in (Gate.OPEN, Gate.HELD):
        return w
    return replace(w, gate=Gate.ENDED, job="cancelling" if w.job else "", copy=half_gone(w))


def half_gone(w: World) -> Copy:
    return Copy.NONE if w.copy is Copy.COMING else w.copy


def run_on(w: World) -> World:
    if w.qemu is not Qemu.STOPPED or w.frozen:
        return w
    return replace(w, qemu=Qemu.RUNS, stale=w.stale or w.copy in (Copy.COMPLETE, Copy.RUNS))


def target_agent(w: World) -> Moves:
    if w.taking:
        step, rest = w.taking[0], w.taking[1:]
        yield step, take(replace(w, taking=rest), step)
        return
    match handover.target(seen_at_target(w)):
        case Take.PREPARE:
            yield "prepare", replace(w, ready=True)
        case Take.ASK:
            if not w.asked and w.reply is Answer.NONE and not w.doing:
                yield "ask", replace(w, asked=True)
        case Take.TAKE_OVER:
            yield "target plans", replace(w, taking=("note ours", "resume the copy"))
        case Take.THROW_AWAY:
            yield "target plans", replace(w, taking=("note", "destroy"))
        case Take.RUN:
            if w.copy is Copy.COMPLETE:
                yield "resume", replace(w, copy=Copy.RUNS)
        case Take.LISTEN | Take.RECEIVE | Take.REST:
            pass
    if w.reply is not Answer.NONE:
        yield "the answer arrives", replace(w, answer=w.reply, reply=Answer.NONE)


def take(w: World, step: str) -> World:
    match step:
        case "note ours":
            return replace(w, taken=Taken.OURS)
        case "resume the copy":
            return replace(w, copy=Copy.RUNS if w.copy is Copy.COMPLETE else w.copy)
        case "note":
            return replace(w, taken=Taken.FAILED)
        case "destroy":
            return replace(w, copy=Copy.NONE)
    raise AssertionError(step)


def libvirt(w: World) -> Moves:
    if w.job == "sending" and w.qemu is Qemu.RUNS and w.copy is Copy.COMING:
        yield "switch-over", replace(w, qemu=Qemu.STOPPED, copy=Copy.COMPLETE, job="finishing", gate=Gate.HELD)
    if w.job == "cancelling" and not w.frozen:
        yield "libvirt lets it run on", replace(run_on(w), job="", gate=Gate.NONE)
    if w.job == "" and w.gate is Gate.ENDED:
        yield "the transfer is over", replace(w, gate=Gate.NONE)


def faults(w: World) -> Moves:
    if w.source_up:
        over = ended(w)
        yield "kill the source's agent", replace(over, source_up=False, gate=Gate.NONE, doing=(), asked=False)
    if w.target_up:
        gone = replace(w, target_up=False, taking=(), answer=Answer.NONE, reply=Answer.NONE, asked=False)
        yield "kill the target's agent", ended(gone)
    if w.job:
        yield "kill the source's libvirt", replace(ended(w), job="")
    if w.copy is Copy.COMING:
        yield "kill the target's libvirt", ended(w)
    if w.asked or w.reply is not Answer.NONE:
        yield "lose a message", replace(w, asked=False, reply=Answer.NONE)
    if w.qemu is not Qemu.GONE:
        yield "kill the source's QEMU", replace(ended(w), qemu=Qemu.GONE, job="", killed=True)
    if w.copy in (Copy.COMING, Copy.COMPLETE, Copy.RUNS):
        yield "kill the target's QEMU", replace(ended(w), copy=Copy.NONE, killed=True)


def changes_of_mind(w: World) -> Moves:
    yield "cancel, or order anew", replace(w, wanted=not w.wanted)
    if w.gate is Gate.HELD and w.patient:
        yield "patience ends", replace(w, patient=False)


def check(w: World) -> None:
    assert not (w.qemu is Qemu.RUNS and w.copy is Copy.RUNS), "two copies run"
    assert not (w.stale and w.copy is Copy.RUNS), "a copy runs whose memory is old"


def explore(most: int, more: Callable[[World], Moves]) -> dict[World, list[World]]:
    """Every world within ``most`` faults → where it can go by itself."""
    first = World()
    graph: dict[World, list[World]] = {}
    came: dict[World, tuple[World | None, str]] = {first: (None, "")}
    todo = [first]
    while todo:
        w = todo.pop()
        try:
            check(w)
        except AssertionError as error:
            raise AssertionError(f"{error}: {story(came, w)}") from None
        graph[w] = [after for _, after in steps(w)]
        bad = [(why, replace(a, faults=w.faults + 1)) for why, a in more(w)] if w.faults < most else []
        for why, after in [*steps(w), *bad]:
            if after not in came:
                came[after] = (w, why)
                todo.append(after)
    for w in graph:
        if not graph[w]:
            assert comes_to_rest_well(w), f"a dead end: {w}: {story(came, w)}"
    return graph


def story(came: dict[World, tuple[World | None, str]], w: World) -> list[str]:
    told: list[str] = []
    at: World | None = w
    while at is not None:
        at, why = came[at]
        told.insert(0, why)
    return told


def comes_to_rest_well(w: World) -> bool:
    """Exactly one runs, unless a stranger killed one; a target that throws its copy away leaves nothing."""
    running = (w.qemu is Qemu.RUNS) + (w.copy is Copy.RUNS)
    return running == 1 or w.killed


def any_fault(w: World) -> Moves:
    yield from faults(w)
    yield from changes_of_mind(w)


def test_without_faults_it_arrives() -> None:
    graph = explore(0, any_fault)
    ends = [w for w, after in graph.items() if not after]
    assert ends
    assert all((w.qemu, w.copy, w.sent, w.taken) == (Qemu.GONE, Copy.RUNS, Sent.HANDED_OVER, Taken.OURS) for w in ends)


@pytest.mark.parametrize("most", [1, 2, 3])
def test_whatever_happens_one_copy_runs_and_none_with_old_memory(most: int) -> None:
    graph = explore(most, any_fault)
    ends = [w for w, after in graph.items() if not after]
    assert any(w.sent is Sent.FAILED and w.qemu is Qemu.RUNS and w.copy is Copy.NONE for w in ends)
    assert any(w.sent is Sent.HANDED_OVER and w.copy is Copy.RUNS for w in ends)
    assert not any(w.copy is Copy.COMPLETE and w.target_up and w.source_up and not w.killed for w in ends)


def test_from_everywhere_it_comes_to_rest() -> None:
    """No circle that is never left: from every world one without a step of its own can be reached."""
    graph = explore(2, any_fault)
    before: dict[World, list[World]] = {w: [] for w in graph}
    for w, after in graph.items():
        for one in after:
            before[one].append(w)
    good = {w for w, after in graph.items() if not after}
    todo = list(good)
    while todo:
        for one in before[todo.pop()]:
            if one not in good:
                good.add(one)
                todo.append(one)
    assert good == set(graph)


def test_the_decisions_are_total() -> None:
    for sent, gate, qemu, wanted, patient in product(Sent, Gate, Qemu, (True, False), (True, False)):
        seen = SourceSeen(sent, gate, qemu, wanted, patient)
        assert isinstance(handover.source(seen), Send)
        assert isinstance(handover.let_go(seen), Reply)
    for taken, copy, answer, ready, leaving in product(Taken, Copy, Answer, (True, False), (True, False)):
        assert isinstance(handover.target(TargetSeen(taken, copy, answer, ready, leaving)), Take)


def test_yes_is_never_said_before_it_is_written_down() -> None:
    """And no is never said after yes could have been."""
    for gate, qemu, wanted, patient in product(Gate, Qemu, (True, False), (True, False)):
        for sent in (Sent.LETTING_GO, Sent.HANDED_OVER):
            assert handover.let_go(SourceSeen(sent, gate, qemu, wanted, patient)) in (Reply.FINISH, Reply.YES)
        for sent in (Sent.NONE, Sent.FAILED):
            assert handover.let_go(SourceSeen(sent, gate, qemu, wanted, patient)) is Reply.NO
