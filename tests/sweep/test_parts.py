"""The parts of a sweep that need neither a running Ray nor a server."""

import errno
import sys
from collections import Counter
from itertools import pairwise
from zipfile import ZipFile

import numpy as np
import pytest
from PIL import Image
from ray._private.runtime_env import packaging

from demo.evidence import swept
from devtools.console import Failure
from support.sweeping import graph, plan_of, sweep_of
from sweep import __main__, choose, cluster, files, page, png, report, statistics
from sweep.drive import Queue
from sweep.figures import encoded
from sweep.plan import Unit
from sweep.search import Search
from sweep.store import Store, StoreFailure


def unit(name, loads=()):
    return Unit(name, {"prompt": name, "seed": 0}, (0.0,), loads)


def test_workers_stay_with_the_files_that_they_have_loaded():
    queue = Queue([unit(f"{k}", (adapter,)) for k in range(6) for adapter in ("a", "b")])
    loaded = [None, None]
    taken = [[], []]
    for turn in range(12):
        hand = turn % 2
        loaded[hand] = queue.take(loaded[hand], [loaded[1 - hand]]).loads
        taken[hand].append(loaded[hand])
    assert queue.take(None, []) is None
    changes = sum(first != second for own in taken for first, second in pairwise(own))
    assert changes == 0 and Counter(map(len, map(set, taken))) == {1: 2}


@pytest.mark.parametrize(("number", "tries"), [(errno.EIO, 3), (errno.ENOSPC, 1)])
def test_a_write_that_fails_is_tried_again_where_that_may_help(tmp_path, monkeypatch, number, tries):
    store, tried = Store(str(tmp_path)), []
    monkeypatch.setattr("sweep.store.PAUSES", (0, 0))

    def fails(path, at, data):
        tried.append(path)
        raise OSError(number, "injected")

    with monkeypatch.context() as patched:
        patched.setattr(store, "_write", fails)
        with pytest.raises(StoreFailure, match="injected"):
            store.write_file("parts/a", b"x")
    assert len(tried) == tries
    store.write_file("parts/a", b"x")
    assert store.read_file("parts/a") == b"x" and [path.name for path in tmp_path.rglob("a*")] == ["a"]


def test_a_result_is_whole_or_not_there(tmp_path):
    store = Store(str(tmp_path))
    store.blame("k", {"message": "no"})
    for _ in range(2):  # who writes a unit again writes the same files
        store.write("k", [{"scale": 1.0, "picture": "pictures/k/w1.png"}], {"pictures/k/w1.png": b"data"})
    assert store.done() == {"k"} and store.rows() == [{"scale": 1.0, "picture": "pictures/k/w1.png"}]
    assert store.failures() == [] and store.read_file("pictures/k/w1.png") == b"data"
    (tmp_path / "parts" / "broken.parquet.1234.partial").write_bytes(b"PAR")
    assert store.done() == {"k"}


def test_the_folder_of_another_sweep_is_refused(tmp_path):
    store = Store(str(tmp_path))
    store.claim({"graph": 1, "spec": 2})
    store.claim({"spec": 2, "graph": 1})
    with pytest.raises(Failure, match="another sweep, with another graph"):
        store.claim({"graph": 2, "spec": 2})


def test_texts_go_into_a_picture_and_its_pixels_stay(tmp_path):
    picture = Image.linear_gradient("L").convert("RGB")
    data = png.with_texts(png.with_texts(encoded(picture), {"prompt": "old", "workflow": "old"}), {"prompt": "new"})
    (tmp_path / "a.png").write_bytes(data)
    read = Image.open(tmp_path / "a.png")
    assert read.text == {"prompt": "new"} and read.tobytes() == picture.tobytes()
    with pytest.raises(ValueError, match="expected a PNG"):
        png.with_texts(b"GIF89a", {})


def test_a_file_is_known_by_its_content(tmp_path, monkeypatch):
    monkeypatch.setenv("LOCALAPPDATA" if sys.platform == "win32" else "XDG_CACHE_HOME", str(tmp_path / "cache"))
    folder = tmp_path / "loras" / "peft"
    folder.mkdir(parents=True)
    (folder / "adapter.safetensors").write_bytes(b"one")
    (tmp_path / "loras" / "same.safetensors").write_bytes(b"one")
    both = files.digest(folder / "adapter.safetensors"), files.digest(tmp_path / "loras" / "same.safetensors")
    assert both[0] == both[1]
    assert [note.parent for note in (tmp_path / "cache").rglob("*") if note.is_file()] == [files.cache()] * 2
    before = files.digest(folder)
    (folder / "adapter.safetensors").write_bytes(b"another")
    assert files.digest(folder) != before
    assert files.existing("checkpoints/peft", [tmp_path / "loras"]) == [folder]
    assert files.existing("../loras/peft", [tmp_path / "loras"]) == []


def test_what_a_cluster_needs_is_shipped_to_it(tmp_path):
    how, package = cluster.shipped(), tmp_path / "package.zip"
    packaging.create_package(how["working_dir"], package, excludes=how["excludes"], include_gitignore=True)
    names = ZipFile(package).namelist()
    assert {"sweep/worker.py", "nodes/__init__.py", "rlg_core/__init__.py", "pyproject.toml"} <= set(names)
    assert {name.split("/")[0] for name in names} == set(cluster.SHIPPED) and package.stat().st_size < 60 * 2**20
    assert not [name for name in names if "__pycache__" in name]


def test_a_row_has_a_section_and_is_told_with_what_it_sets(tmp_path):
    values = [{"name": name, "KSampler.cfg": cfg} for name, cfg in (("low", 1.5), ("high", 3.0))]
    plan = plan_of(tmp_path, graph(), sweep_of(strong={"values": values}))
    rows = [{"unit": u.key, **u.values, **u.beside, "scale": 1.0, "seconds": 1.0, "worker": "w"} for u in plan.units()]
    sections = report.settings(rows, plan.spec)
    assert {s.name: {row["KSampler.cfg"] for row in s.rows} for s in sections} == {
        "strong low": {1.5},
        "strong high": {3.0},
    }
    manifest = {"units": len(rows), "mode": "grid", "apart": "", "host": "0", "pack": "0", "files": {}}
    assert "low (KSampler.cfg 1.5), high (KSampler.cfg 3.0)" in page.html(manifest, plan.spec, [], rows, [])


def test_an_old_python_is_told_so(monkeypatch):
    monkeypatch.setattr(sys, "version_info", (3, 10, 13))
    with pytest.raises(Failure, match=r"sweeps need 3\.11 or newer"):
        __main__.main(["workflow.json", "sweep.toml", "--results", "results"])


def made(level, values_off, composition, correct):
    values = {"composition": composition, "brightness": 0.5, "jpeg": -2.0, "correct": correct}
    pixels = np.full((12, 12, 3), 100, np.uint8)
    pixels.reshape(-1)[:values_off] = level
    return swept.Made(pixels, values)


@pytest.mark.parametrize(
    ("pixels", "scores", "explained"),
    [
        ((100, 0), (0.9, 1.0), True),
        ((101, 3), (0.4, 0.0), True),
        ((102, 3), (0.9, 1.0), False),
        ((101, 12 * 12 * 3), (0.9, 1.0), False),
        ((100, 0), (0.4, 0.0), False),
    ],
    ids=["equal", "rounding", "further off", "off everywhere", "other scores"],
)
def test_what_a_sweep_makes_otherwise_than_the_evidence_is_told(pixels, scores, explained):
    own = {(0, 0, w): made(100, 0, 0.9, 1.0) for w in swept.SCALES}
    found = swept.Compared(own | {(0, 0, 2.0): made(*pixels, *scores)}, own, {})
    assert [found.is_explained(key) for key in own] == [True, True, explained]
    assert found.told()[-1].startswith(f"{int(not explained)} differ by more than rounding explains")
    assert f"| 2 | composition | - | 0.9000 | {scores[0]:.4f} |" in "\n".join(found.table())


# Choosing w


def scored(best, prompts=8, error=0.0):
    """Rows in which a scale's score falls with its distance from `best`; `error` alternates from prompt to prompt."""
    return [
        {
            "scale": s,
            "prompt": f"p{k}",
            "seed": 0,
            "reward": -abs(s - best) + 0.1 * k + (error if (k + i) % 2 else -error),
        }
        for i, s in enumerate((0.0, 1.0, 2.0, 3.0))
        for k in range(prompts)
    ]


def test_the_best_scale_and_how_sure_it_is():
    sure = statistics.choose(statistics.clusters(scored(2.0), "reward"))
    assert sure.scale == 2.0 and sure.as_good == (2.0,) and sure.shares[2.0] == 1.0 and not sure.is_end
    unsure = statistics.choose(statistics.clusters(scored(2.4, error=0.6), "reward"))
    assert set(unsure.as_good) >= {2.0, 3.0} and max(unsure.shares.values()) < 1.0


def test_a_search_says_which_scales_it_dropped():
    found = statistics.choose(statistics.clusters([row for row in scored(2.0) if row["scale"] > 1], "reward"))
    told = page.answer(found, "reward", [0.0, 1.0, 2.0, 3.0])
    assert "Every other scale that was left to the end is worse" in told and "Of 0, 1 fewer pictures were made" in told
    assert "fewer pictures" not in page.answer(found, "reward", [2.0, 3.0])


def test_the_front_keeps_what_nothing_beats():
    points = {0.0: (0.9, 0.1), 1.0: (0.5, 0.5), 2.0: (0.4, 0.4), 3.0: (0.1, 0.9)}
    assert statistics.front(points) == [0.0, 1.0, 3.0]


@pytest.mark.parametrize(("scales", "units"), [(1, 5), (2, 40), (6, 24), (9, 200), (16, 3)])
def test_rounds_go_through_all_units_with_ever_fewer_scales(scales, units):
    found = list(choose.rounds(scales, units))
    assert [r.start for r in found] == [0, *(r.end for r in found[:-1])] and found[-1].end == units
    assert found[0].keep == scales and all(b.keep < a.keep for a, b in pairwise(found))


def test_the_search_ends_at_the_best_scale_for_fewer_pictures(tmp_path):
    scales = [0, 0.5, 1, 1.5, 2, 3]
    plan = plan_of(tmp_path, graph(), sweep_of(scale={"at": "RLGApply.scale", "values": scales}))
    search = Search(plan, Store(str(tmp_path)), plan.by_setting()[0])
    pictures = 0
    for turn in range(len(search.rounds)):
        for one in search.units(turn):
            rows = [{"scale": s, "brightness": -abs(s - 1.5) + 0.01 * one.values["seed"]} for s in one.scales]
            search.store.write(one.key, rows, {})
            pictures += len(rows)
    assert 1.5 in search.scales and len(search.scales) <= 2 and pictures < 0.7 * len(scales) * len(plan.units())
