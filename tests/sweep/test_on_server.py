"""Sweeps on a server that runs: what is checked before the start, and that its pictures are the workflow's own."""

import io
import json
import time
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from demo.evidence import swept
from demo.evidence.pair import SEED
from demo.evidence.sizes import QUICK
from support import graphs
from support.sweeping import PROMPTS, SCALES, graph, plan_of, sweep_of
from sweep.checks import graphs_of, literals, problems
from sweep.drive import changed
from sweep.worker import Job, Worker


@pytest.fixture
def worker_for(server, tmp_path):
    """Return (plan, worker) of a sweep, the worker on the running server."""

    def start(graph, content, timeout=240.0):
        plan = plan_of(tmp_path, graph, content)
        return plan, Worker(Job(plan.recipe, str(tmp_path / "results"), timeout, {}), server.url)

    return start


def found(plan, *workers):
    """Return what keeps a sweep from running on workers."""
    every = list(graphs_of(plan.recipe, plan.spec))
    kinds = {node["class_type"] for graph in every for node in graph.values()}
    return problems(plan.recipe, plan.spec, [worker.facts(kinds, literals(every)) for worker in workers])


def test_a_good_sweep_has_no_problems(worker_for):
    plan, worker = worker_for(graph(), sweep_of())
    assert found(plan, worker, worker) == []


def wrong_axis(at, *values):
    return {"wrong": {"at": at, "values": list(values)}}


def wrong_rows(target, *values):
    return {"wrong": {"values": [{"name": f"row {k}", target: value} for k, value in enumerate(values)]}}


@pytest.mark.parametrize(
    ("graph", "axes", "told"),
    [
        (graph(), wrong_axis("KSampler.cfgg", 1), r"node sampler (KSampler) has no input 'cfgg'; did you mean 'cfg'"),
        (graph(), wrong_axis("KSampler.cfg", 3, 500), "KSampler.cfg = 500: expected a number from 0.0 to 100.0"),
        (graph(), wrong_axis("KSampler.steps", 2.5), "KSampler.steps = 2.5: expected a whole number from 1 to 10000"),
        (graph(), wrong_axis("KSampler.sampler_name", "eulr"), "KSampler.sampler_name = 'eulr': expected one of"),
        (
            graph(),
            wrong_axis("RLGAdapterLoader.lora_name", "rlg-demo/rl-brightness", "gone.safetensors"),
            "RLGAdapterLoader.lora_name = 'gone.safetensors': expected one of",
        ),
        (
            graph(),
            wrong_rows("KSampler.cfgg", 1),
            r"[inputs.wrong]: node sampler (KSampler) has no input 'cfgg'; did you mean 'cfg'",
        ),
        (graph(), wrong_rows("KSampler.cfg", 3, 500), "KSampler.cfg = 500: expected a number from 0.0 to 100.0"),
        (
            graph(),
            wrong_rows("RLGAdapterLoader.lora_name", "rlg-demo/rl-brightness", "gone.safetensors"),
            "RLGAdapterLoader.lora_name = 'gone.safetensors': expected one of",
        ),
        (graphs.changed(graph(), "UNETLoader", unet_name="gone"), {}, "UNETLoader.unet_name = 'gone': expected one of"),
        (graph() | {"sampler": graph()["sampler"] | {"class_type": "NoSampler"}}, {}, "there is no node 'NoSampler'"),
    ],
)
def test_what_cannot_run_is_told_before_the_start(worker_for, graph, axes, told):
    content = sweep_of(**axes)
    if "NoSampler" in told:
        content = json.loads(json.dumps(content).replace("KSampler.seed", "NoSampler.seed"))
    plan, worker = worker_for(graph, content)
    problem = found(plan, worker)
    assert len(problem) == 1 and told in problem[0] and problem[0].startswith(worker.url)


def test_workers_that_differ_are_told(worker_for, server):
    plan, worker = worker_for(graph(), sweep_of())
    every = list(graphs_of(plan.recipe, plan.spec))
    kinds = {node["class_type"] for graph in every for node in graph.values()}
    one = worker.facts(kinds, literals(every))
    other = replace(
        one, where="elsewhere", host="0.1", pack="other", files=one.files | {"rlg-demo/rl-brightness": "other"}
    )
    told = problems(plan.recipe, plan.spec, [one, other])
    assert changed(one, one) == [] and changed(one, other) == told
    assert changed(one, replace(one, files={}))[0] == f"{min(one.files)!r} is not on {server.url}"
    for part in ("ComfyUI", "this pack", "rlg-demo/rl-brightness"):
        assert any(part in line for line in told)


@pytest.mark.parametrize(("sampler", "batch"), [("euler", 2), ("euler_ancestral", 1)])
def test_pictures_are_those_of_the_workflow_that_they_carry(worker_for, server, tmp_path, sampler, batch):
    workflow = graphs.changed(graph(sampler_name=sampler), "EmptySD3LatentImage", batch_size=batch)
    plan, worker = worker_for(workflow, sweep_of())
    unit = plan.unit({"prompt": PROMPTS[0], "seed": 7}, SCALES)
    result = worker.run(unit, keeps=True)
    assert [(row["scale"], row["item"]) for row in result.rows] == [(s, k) for s in SCALES for k in range(batch)]
    for row in result.rows:
        data = (tmp_path / "results" / row["picture"]).read_bytes()
        picture = Image.open(io.BytesIO(data))
        workflow = json.loads(picture.text["prompt"])
        outputs = server.run(workflow)
        alone = server.image(outputs["save"]["images"][row["item"]])
        assert np.abs(pixels(data) - pixels(alone)).max() <= 1, (
            "a scale alone and in a batch differ by rounding at most"
        )
        assert workflow["guidance"]["inputs"]["scale"] == row["scale"]
        brightness = json.loads(picture.text["rlg_sweep"])["brightness"]
        assert brightness == pytest.approx(row["brightness"]) and 0 < brightness < 1


def test_a_row_gives_a_prompt_its_item_of_a_batchs_noise(worker_for, server):
    sizes = replace(QUICK, prompts=3, steps=2)
    plan, worker = worker_for(swept.workflow(sizes), swept.sweep_file(PROMPTS[:3], sizes))
    unit = plan.unit({"prompt": PROMPTS[1], "seed": SEED}, swept.SCALES)
    result = worker.run(unit, keeps=False)
    for row in result.rows:
        batch = plan.recipe.plain(unit.values, row["scale"])
        batch["sampler"]["inputs"]["latent_image"] = ["latent", 0]
        items = [pixels(server.image(image)) for image in server.run(batch)["save"]["images"]]
        own = pixels(result.pictures[row["picture"]])
        distances = [np.abs(own - item).max() for item in items]
        assert distances[1] <= 1 < 50 < min(distances[0], distances[2])
        assert row["LatentFromBatch.batch_index"] == 1


def pixels(data):
    return np.asarray(Image.open(io.BytesIO(data)).convert("RGB"), dtype=int)


def test_results_come_back_where_the_folder_is_out_of_reach(worker_for):
    plan, worker = worker_for(graph(), sweep_of())
    result = worker.run(plan.unit({"prompt": PROMPTS[1], "seed": 7}, SCALES), keeps=False)
    assert [row["picture"] for row in result.rows] == list(result.pictures) and worker.store.done() == set()
    assert all(Image.open(io.BytesIO(data)).size == (96, 96) for data in result.pictures.values())


def test_a_unit_that_takes_too_long_is_given_up_and_its_server_is_free_again(worker_for, server):
    plan, worker = worker_for(graph(steps=2000), sweep_of(), timeout=3.0)
    unit = plan.unit({"prompt": PROMPTS[0], "seed": 7}, SCALES)
    assert "not done after 3 s" in worker.run(unit, keeps=True).error["message"]
    while server.get("/queue")["queue_running"]:  # pytest's timeout ends this where it is not interrupted
        time.sleep(0.05)
    assert worker.store.done() == set()
