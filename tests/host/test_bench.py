"""The benchmark at tiny size: the ways agree, what is counted is counted, and the report is written."""

from __future__ import annotations

import pickle
from dataclasses import replace

import pytest

from support.host import is_oldest, repository_on_path

pytestmark = pytest.mark.skipif(is_oldest(), reason="the benchmark measures the newer release alone")


@pytest.fixture(scope="module")
def bench(host):
    """The package, imported once the host has started."""
    with repository_on_path():
        import bench.suite
    return bench


@pytest.fixture(scope="module")
def pair(host, bench):
    from bench.geometry import SD3_TARGETS, Geometry, sd3
    from bench.pair import Pair

    tiny = Geometry("tiny", "sd3", lambda: sd3(2, 96, 64), 4, SD3_TARGETS, 4.5, (1, 16, 8, 8), 96, 64, 7)
    return Pair(host, tiny)


@pytest.fixture(scope="module")
def timings(bench, pair):
    return bench.measure.compare(pair, bench.ways.WAYS, rounds=2, steps=4)


def test_all_exact_ways_agree(bench, timings):
    errors = {way.name: timings[way.name].error for way in bench.ways.RIVALS}
    assert max(errors.values()) < 1e-4, errors
    assert timings[bench.ways.PLAIN.name].error > 1e-2


def test_rows_a_step(bench, timings):
    rows = {name: timing.rows for name, timing in timings.items()}
    assert rows.pop(bench.ways.PLAIN.name) == 2
    assert {rows.pop(way.name) for way in bench.ways.RIVALS} == {4}
    assert all(2 <= count <= 4 for count in rows.values()), rows


def test_a_way_that_is_not_exact_stops_the_benchmark(bench, pair):
    liar = bench.ways.Way("a guess", bench.ways.plain)
    with pytest.raises(RuntimeError, match="a guess is"):
        bench.measure.compare(pair, (bench.ways.PLAIN, bench.ways.EXACT_BATCHED, liar), rounds=1, steps=2)


def test_memory_of_a_lora_pair_is_one_models(bench, pair):
    ways = (bench.ways.PLAIN, bench.ways.EXACT_BATCHED, bench.ways.COPIES)
    plain, ours, copies = (memory.weights for memory in bench.memory.of_ways(pair.geometry, ways).values())
    assert 1.0 < ours / plain < 1.2 < 1.9 < copies / plain


def test_the_report_is_written(bench, pair, timings, tmp_path):
    from bench import TITLES, report, sections
    from bench.suite import Compared, Results

    sections.put(tmp_path / "RESULTS.md", TITLES[0], "what a part wrote")

    memory = {name: bench.memory.Memory(100, 200) for name in timings}
    profiles = bench.profiles.of_ways(pair, (bench.ways.PLAIN, bench.ways.EXACT_BATCHED), peak=1e11)
    assert profiles[bench.ways.EXACT_BATCHED.name].flops > 2 * profiles[bench.ways.PLAIN.name].flops > 0
    results = Results(
        1e11, [0.1], {"tiny": Compared(timings, profiles, memory, bench.profiles.attach_seconds(pair, 2))}
    )
    sweep = bench.sweeps.Sweep("batch", (1, 2), {name: [0.1, 0.2] for name in timings})
    results.sweeps = [sweep, sweep]
    text = report.write(results, tmp_path).read_text()
    assert "not measured" in text and bench.ways.PAPER.name in text
    assert text.endswith(f"## {TITLES[0]}\n\nwhat a part wrote\n")
    assert (tmp_path / "growth.png").stat().st_size > 1000


def test_a_part_writes_its_own_section_and_leaves_the_others(bench, tmp_path):
    from bench import sections

    path = tmp_path / "RESULTS.md"
    path.write_text("# Benchmark\n\nHead.\n\n## One\n\n1\n\n## Two\n\n2\n")
    sections.put(path, "One", "| 3 |")
    sections.put(path, "Three", "4\n\n### Inside\n\n5")
    head, found = sections.read(path)
    assert head.startswith("# Benchmark\n\nHead.")
    assert found == {"One": "| 3 |", "Two": "2", "Three": "4\n\n### Inside\n\n5"}


def test_the_gpu_part_says_what_was_not_measured(host, bench):
    from bench import gpu_part
    from bench.gpu import cases

    if host.comfy.model_management.get_torch_device().type != "cpu":
        pytest.skip("there is a GPU to measure on")
    found = {cases()[0].name: "| measured |"}
    text = gpu_part.section(found)
    assert text.count("| not measured |") == len(cases()) - 1
    assert text.endswith(f"### {cases()[0].name}\n\n| measured |")
    assert gpu_part.run() == gpu_part.section(gpu_part.blocks())


def test_a_case_of_the_gpu_part_in_a_process_of_its_own(bench, monkeypatch):
    """What a card would run, in small and without one."""
    from bench import gpu, gpu_part
    from bench.geometry import SMALL

    monkeypatch.setattr("torch.cuda.get_device_name", lambda: "no card")
    mode = gpu.Mode("fp8 scaled, on no card", gpu.OWN, form="fp8 scaled")
    case = gpu.Case(replace(SMALL.sized(side=8), form=mode.form), mode)
    timings = gpu.run(case, rounds=1, steps=2)
    assert [timings[way.name].rows for way in gpu.OWN] == [2, 4, 4]
    assert timings[bench.ways.EXACT_SEQUENTIAL.name].error < 1e-4
    assert "exact RLG at most 2.05 x plain CFG" in gpu_part.told(case, timings)


def test_every_case_of_the_gpu_part_can_go_to_another_process(bench):
    from bench import gpu

    names = [case.name for case in gpu.cases()]
    assert len(set(names)) == len(names) > 20
    assert [pickle.loads(pickle.dumps(case)).name for case in gpu.cases()] == names


def test_a_form_that_cannot_be_had_says_why(host, bench, pair, monkeypatch):
    from bench.pair import Pair

    monkeypatch.delenv("RLG_PACKS", raising=False)
    with pytest.raises(RuntimeError, match="RLG_PACKS names no folder with ComfyUI-GGUF"):
        Pair(host, replace(pair.geometry, form="GGUF Q8_0")).base  # noqa: B018, as it is made on first use
