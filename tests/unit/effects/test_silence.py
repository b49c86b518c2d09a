"""Who was asked and does not answer is noticed; who has nothing to answer is not."""

from __future__ import annotations

from berth.effects.silence import Talk

DATA = memoryview(b"x")


def test_only_what_went_there_and_nothing_came_back_for_is_silence() -> None:
    now = [100.0]
    talk = Talk(lambda: now[0])
    now[0] += 60
    assert talk.silent_for() == 0
    assert bytes(talk.forth(DATA)) == b"x"
    now[0] += 5
    assert talk.silent_for() == 5
    talk.forth(DATA)  # a long question is still being asked
    now[0] += 3
    assert talk.silent_for() == 3
    assert bytes(talk.back(DATA)) == b"x"
    now[0] += 60
    assert talk.silent_for() == 0
