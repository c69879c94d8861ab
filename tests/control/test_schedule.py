"""When updates fall due."""

from __future__ import annotations

import pytest

from control.agents.schedule import Schedule


@pytest.mark.parametrize("rate", [0.3, 1.0, 2.5])
def test_updates_fall_due_at_their_rate_however_the_steps_come(rate):
    for step in (1, 5, 40):
        schedule = Schedule(rate, make_up=True)
        assert sum(schedule.due(step) for _ in range(0, 40, step)) == int(40 * rate)
        assert schedule.decisions == 40


@pytest.mark.parametrize("rate", [0.3, 1.0, 2.5])
def test_the_random_phase_is_made_up_for_at_once_or_never(rate):
    burst, none = Schedule(rate, make_up=True), Schedule(rate)
    assert burst.due(40) == int(40 * rate) and none.due(40) == 0
    assert [burst.due(1) for _ in range(20)] == [none.due(1) for _ in range(20)]


def test_a_rate_of_zero_makes_nothing_due():
    assert Schedule(0.0, make_up=True).due(7) == 0
