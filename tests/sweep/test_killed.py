"""A sweep whose worker, server and driver are killed in turn: every unit is there once, and nothing else is left."""

import os
import signal
from types import SimpleNamespace

import pytest
from pyarrow import parquet

from devtools import hosts
from support.sweeping import PATIENCE, PROMPTS, SCALES, Command, graph, parts, sweep_of, written
from sweep.store import Store

pytestmark = pytest.mark.skipif(
    os.environ.get("RLG_HOST_VERSION") == hosts.OLDEST.version, reason="is about processes, which no release changes"
)

BAD = "four pink stars"
"""A prompt that the scene judge refuses, so that its node fails."""

UNITS = 2 * (len(PROMPTS) + 1)


@pytest.fixture(scope="module")
def swept(tmp_path_factory):
    """The results, and what was seen on the way."""
    folder = tmp_path_factory.mktemp("killed")
    results = folder / "results"
    prompt = {"at": "Positive prompt.text", "values": [*PROMPTS, BAD]}
    files = written(folder, graph(), sweep_of(prompt=prompt))
    with Command(files, results, "--workers", "1") as first:
        first.until_done(2)
        (worker,) = first.named("ray::Worker")
        worker.send_signal(signal.SIGKILL)
        first.until_done(4)
        first.kill()
        left_by_first = first.leavings()
        before = parts(results)
    with Command(files, results, "--workers", "1") as second:
        second.until_done(len(before) + 1)
        (server,) = second.named("--base-directory")
        server.send_signal(signal.SIGKILL)
        code = second.process.wait(PATIENCE)
        left_by_second = second.leavings()
    return SimpleNamespace(
        results=results,
        store=Store(str(results)),
        before=before,
        code=code,
        left=[left_by_first, left_by_second],
        told=second.told(),
    )


def test_every_unit_is_done_once(swept):
    rows = swept.store.rows()
    found = [(row["prompt"], row["seed"], row["scale"]) for row in rows]
    assert sorted(found) == sorted((p, seed, scale) for p in PROMPTS for seed in (7, 8) for scale in SCALES)
    assert len(list(swept.results.glob("pictures/*/*.png"))) == len(rows)
    assert not list(swept.results.rglob("*.partial"))


def test_what_was_done_is_not_done_again(swept):
    assert len(swept.before) >= 4
    after = parts(swept.results)
    assert {unit: after[unit] for unit in swept.before} == swept.before
    assert f"{len(swept.before)} of {UNITS} units done already" in swept.told


def test_no_worker_and_no_server_is_left(swept):
    assert swept.left == [[], []]


def test_a_unit_that_fails_three_times_is_told(swept):
    failures = swept.store.failures()
    assert [failure["prompt"] for failure in failures] == [BAD, BAD] and swept.code == 1
    assert all(failure["node_type"] == "RLGReward" and failure["tries"] == 3 for failure in failures)
    assert "2 units failed three times" in swept.told


def test_the_table_and_the_report_are_written(swept):
    table = parquet.read_table(swept.results / "results.parquet")
    assert table.num_rows == 2 * len(PROMPTS) * len(SCALES)
    page = (swept.results / "report.html").read_text(encoding="utf-8")
    assert "2 units failed." in page and "data:image/png;base64," in page and "http" not in page
    assert sorted(path.name for path in (swept.results / "report").iterdir()) == [
        "pareto.png",
        "reward.png",
        "sheet.png",
    ]
