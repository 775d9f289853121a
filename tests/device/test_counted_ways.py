"""What the benchmark counts of each way, at tiny size."""

from __future__ import annotations

import pytest

from support.host import repository_on_path


@pytest.fixture(scope="module")
def asked(host):
    """What each way asks of the device per step, by its name."""
    with repository_on_path():
        from bench import device, ways
        from bench.geometry import SD3_TARGETS, Geometry, sd3
    tiny = Geometry("tiny", "sd3", lambda: sd3(2, 96, 64), 4, SD3_TARGETS, 4.5, (1, 16, 8, 8), 96, 64, 7)
    return device.of_ways(host, tiny, (ways.PLAIN, ways.EXACT_BATCHED, ways.PAPER, ways.PATCHING, ways.COPIES))


def test_rlg_asks_for_one_model_and_the_others_for_two(asked):
    plain, ours, *others = asked.values()
    assert ours.waits == plain.waits and ours.launches < 1.3 * plain.launches
    assert all(other.launches > 1.9 * plain.launches for other in others)
    assert plain.held == pytest.approx(1.0) and 1.0 < ours.held < 1.1
    assert 0.4 < plain.streamed < ours.streamed < 1.05 * plain.streamed
    paper, patching, copies = others
    assert paper.streamed is None and min(patching.streamed, copies.streamed) > 1.9 * plain.streamed
    assert copies.held == pytest.approx(2.0)
