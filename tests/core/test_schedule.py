"""Scales over the schedule's percent."""

from __future__ import annotations

import pytest
import torch

from rlg_core.schedule import PRESETS, PROGRESS, PerItem, Schedule, Stages, constant_in_window

PERCENTS = [k / 200 for k in range(201)]
SCHEDULES = [
    *PRESETS.values(),
    *(Schedule(shape, 2.0, end, start, 1.0) for shape in PROGRESS for end in (2.0, 0.5) for start in (0.0, 0.25)),
    constant_in_window(2.0, 0.0, 1.0, 1.0),
    constant_in_window(2.0, 0.0, 0.95, 1.0),
    constant_in_window(2.0, 0.3, 0.7, 2.0),
    PerItem((1.0, 3.0)),
    PerItem((1.0, 3.0), Schedule("linear", 0.0, 1.0)),
    PerItem((1.0, 3.0), Schedule("constant", 0.5)),
    Stages.constant(1.5),
    Stages((1.5, 1.5, 2.0)),
]


@pytest.mark.parametrize("schedule", SCHEDULES, ids=str)
def test_a_constant_schedule_is_one_that_never_changes(schedule):
    """A run reads no percent for it."""
    first, *others = (torch.as_tensor(schedule.scale_at(percent)) for percent in PERCENTS)
    assert schedule.is_constant == all(torch.equal(first, other) for other in others)
