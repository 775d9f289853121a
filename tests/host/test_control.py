"""Schedules, regions, experts, prompt branches, budgets and traces, each against plain predictions combined by hand."""

from __future__ import annotations

import json

import pytest
import torch

from support import paper, tiny
from support.guiding import guide, run_node
from support.sampling import Sampling, conditioning, counted_calls, wan_sampling
from support.tensors import rms

CLOSE = 1e-4
CFG = 4.5


@pytest.fixture(scope="module")
def pair(host):
    """A base, and two RL-tuned versions of it as adapters of one PEFT model: `default` and `second`."""
    import peft

    adapted, (model, first) = tiny.sd3_adapted(), tiny.sd3_pair(host)
    adapted.add_adapter("second", peft.LoraConfig(r=4, lora_alpha=8, target_modules=tiny.SD3_TARGETS))
    tiny.fill(adapted, "second", seed=5)
    adapted.eval().requires_grad_(False)
    return adapted, model, first, tiny.with_lora(host, model, tiny.lora_file(adapted, adapter="second"))


def expect(host, model, adapted, settings, combine):
    return paper.sample(adapted, settings, settings.sigmas(host, model), combine)


def latent_of(model, settings, host, guided):
    return model.model.process_latent_in(settings.run(host, guided))


def assert_same(host, pair, guided, settings, combine):
    adapted, model = pair[:2]
    result = latent_of(model, settings, host, guided)
    assert (result - expect(host, model, adapted, settings, combine)).abs().max() < CLOSE


def test_an_identical_pair_is_a_no_op_that_says_so(host, pair, caplog):
    assert guide(host, pair[1], pair[1].clone(), 3.0) is pair[1]
    assert "are the same model" in caplog.text


@pytest.mark.parametrize(
    ("window", "scales"),
    [
        ((0.0, 0.5, 0.0), [2, 2, 2, 2, 2, 0, 0, 0]),
        ((0.25, 0.75, 1.0), [1, 1, 2, 2, 2, 2, 2, 1]),
        ((0.5, 0.5, 0.0), [0, 0, 0, 0, 2, 0, 0, 0]),
    ],
)
def test_window_includes_both_ends(host, pair, window, scales):
    """SD3's schedule is shifted by 3; `simple` takes steps at percents k / 8."""
    start, end, outside = window
    guided = guide(host, pair[1], pair[2], 2.0, start, end, outside)
    assert_same(host, pair, guided, Sampling(), lambda step, of: paper.guidance(scales[step], CFG)(step, of))


@pytest.mark.parametrize(
    ("settings", "scale_at"),
    [
        (("constant", 1.6, 0.0, 0.0, 1.0, 1.0), lambda p: 1.6),
        (("linear", 3.0, 0.0, 0.0, 1.0, 1.0), lambda p: 3.0 - 3.0 * p),
        (("cosine", 0.0, 2.0, 0.0, 1.0, 1.0), lambda p: 1.0 - torch.cos(torch.tensor(torch.pi * p)).item()),
        (("power", 0.0, 2.0, 0.0, 1.0, 2.0), lambda p: 2.0 * p * p),
        (("power", 9.0, 9.0, 0.9, 0.1, 1.0, "RL early, base late"), lambda p: 1.0 if p <= 0.6 else 0.0),
        (("constant", 9.0, 9.0, 0.0, 1.0, 1.0, "first steps RL only"), lambda p: 1.0 if p < 0.1 else 1.6),
    ],
)
def test_schedules(host, pair, settings, scale_at):
    schedule = run_node(host, "RLGSchedule", *settings)[0]
    guided = guide(host, pair[1], pair[2], schedule=schedule)
    assert_same(host, pair, guided, Sampling(), lambda step, of: paper.guidance(scale_at(step / 8), CFG)(step, of))


def test_scale_from_kl(host):
    assert run_node(host, "RLGScaleFromKL", 0.04, 0.02)[0] == 2.0


def test_mask_sets_the_scale_by_region(host, pair):
    mask = torch.zeros(1, 64, 64)
    mask[:, :, 32:] = 1.0
    weight = torch.ones(1, 1, 8, 8) * 0.5
    weight[..., 4:] = 3.0
    guided = guide(host, pair[1], pair[2], 3.0, 0.0, 1.0, 0.5, mask=mask)
    assert_same(host, pair, guided, Sampling(), lambda step, of: paper.guidance(weight, CFG)(step, of))


@pytest.mark.parametrize("extra", ["mask", "branch"])
def test_a_call_that_names_no_prompt_has_no_place_for_masks(host, pair, extra):
    """Some sampling nodes call the model by themselves and leave out what the host says of each row."""

    def anonymous(apply_model, arguments):
        options = {
            k: v for k, v in arguments["c"]["transformer_options"].items() if k not in ("uuids", "cond_or_uncond")
        }
        return apply_model(
            arguments["input"], arguments["timestep"], **arguments["c"] | {"transformer_options": options}
        )

    value = torch.ones(1, 8, 8) if extra == "mask" else run_node(host, "RLGBranch", 0.0, 1.0, 0.5)[0]
    guided = guide(host, pair[1], pair[2], 2.0, **{extra: value})
    guided.set_model_unet_function_wrapper(anonymous)
    with pytest.raises(ValueError, match="without saying for which prompts"):
        Sampling(steps=1).run(host, guided)


def test_masks_for_pictures_of_a_video_model(host):
    """Latents of a single frame: one mask for each picture, as everywhere else."""
    model = tiny.load_weights(host, tiny.wan_weights(host))
    key = "diffusion_model.head.head.weight"
    rl_model = model.clone()
    rl_model.add_patches({key: ("diff", (torch.randn(64, 256, generator=torch.Generator().manual_seed(1)) * 0.01,))})
    masks = torch.stack([torch.zeros(8, 8), torch.ones(8, 8)])
    settings = wan_sampling(shape=(2, 16, 1, 8, 8))
    both = settings.run(host, guide(host, model, rl_model, 2.0, outside_scale=0.0, mask=masks))
    base, guided = (settings.run(host, m) for m in (model, guide(host, model, rl_model, 2.0)))
    assert (base - guided).abs().max() > 1e-2
    assert (both[0] - base[0]).abs().max() < CLOSE and (both[1] - guided[1]).abs().max() < CLOSE
    with pytest.raises(ValueError, match="3 masks for 2 images"):
        settings.run(host, guide(host, model, rl_model, 2.0, mask=torch.ones(3, 8, 8)))


def test_a_mask_for_each_image(host, pair):
    masks = torch.stack([torch.zeros(8, 8), torch.ones(8, 8)])
    weight = torch.tensor([1.0, 2.0]).reshape(2, 1, 1, 1)
    settings = Sampling(shape=(2, 16, 8, 8))
    assert_same(
        host,
        pair,
        guide(host, pair[1], pair[2], mask=masks),
        settings,
        lambda step, of: paper.guidance(weight, CFG)(step, of),
    )
    with pytest.raises(ValueError, match="2 masks for 3 images"):
        Sampling(shape=(3, 16, 8, 8)).run(host, guide(host, pair[1], pair[2], mask=masks))


@pytest.mark.parametrize("order", [(0, 1), (1, 0)])
def test_two_experts_in_any_order(host, pair, order):
    scales, guided = (1.5, -0.7), pair[1]
    for k in order:
        guided = guide(host, guided, pair[2 + k], scales[k])

    def combine(step, of):
        base = of.guided("base", CFG)
        return base + 1.5 * (of.guided("default", CFG) - base) - 0.7 * (of.guided("second", CFG) - base)

    assert_same(host, pair, guided, Sampling(), combine)
    with counted_calls(guided) as rows:
        Sampling(steps=3).run(host, guided)
    assert rows == [6] * 3


def test_scales_that_sum_to_one_need_no_base(host, pair):
    guided = guide(host, guide(host, pair[1], pair[2], 0.3), pair[3], 0.7)
    Sampling(steps=2).run(host, guided)
    with counted_calls(guided) as rows:
        Sampling(steps=2).run(host, guided)
    assert rows == [4, 4]


def test_prompts_are_scaled_apart(host, pair):
    branch = run_node(host, "RLGBranch", 0.0, 0.5, 2.0)[0]

    def combine(step, of):
        (c, u), (rl_c, rl_u) = of.pair("base"), of.pair("default")
        c, u = c + 0.5 * 2.0 * (rl_c - c), u + 2.0 * 2.0 * (rl_u - u)
        return u + CFG * (c - u)

    assert_same(host, pair, guide(host, pair[1], pair[2], branch=branch), Sampling(), combine)


@pytest.mark.parametrize(("rl_cfg", "rows"), [(1.0, [2, 1]), (2.0, [2, 2])])
def test_the_rl_model_with_a_cfg_of_its_own(host, pair, rl_cfg, rows):
    branch = run_node(host, "RLGBranch", rl_cfg, 1.0, 1.0)[0]
    guided = guide(host, pair[1], pair[2], branch=branch)

    def combine(step, of):
        base = of.guided("base", CFG)
        return base + 2.0 * (of.guided("default", rl_cfg) - base)

    assert_same(host, pair, guided, Sampling(), combine)
    with counted_calls(guided) as calls:
        Sampling(steps=2).run(host, guided)
    assert sorted(calls) == sorted(rows * 2)


def test_an_own_cfg_beside_another_expert(host, pair):
    guided = guide(
        host, guide(host, pair[1], pair[2], 1.5), pair[3], 0.8, branch=run_node(host, "RLGBranch", 1.0, 1.0, 1.0)[0]
    )

    def combine(step, of):
        base = of.guided("base", CFG)
        return base + 1.5 * (of.guided("default", CFG) - base) + 0.8 * (of.guided("second", 1.0) - base)

    assert_same(host, pair, guided, Sampling(), combine)


def test_branch_refuses_both_ways_at_once(host):
    with pytest.raises(ValueError, match="expected both scales to be 1"):
        run_node(host, "RLGBranch", 2.0, 0.5, 1.0)


def test_linearised_is_the_adapter_at_strength_w(host, pair):
    model = pair[1]
    guided = run_node(host, "RLGBudget", guide(host, model, pair[2], 2.0), "linearised", 1, 0.0, "auto")[0]
    doubled = model.clone()
    doubled.patches = {key: [(2.0 * p[0], *p[1:]) for p in patches] for key, patches in pair[2].patches.items()}
    doubled.patches_uuid = pair[2].patches_uuid.__class__(int=7)
    settings = Sampling()
    assert (settings.run(host, guided) - settings.run(host, doubled)).abs().max() < CLOSE
    with counted_calls(guided) as rows:
        settings.run(host, guided)
    assert rows == [2] * 8


def test_refresh_every_skips_the_base_and_stays_close(host, pair):
    model, settings = pair[1], Sampling(steps=12)
    exact_model = guide(host, model, pair[2], 2.0)
    exact = settings.run(host, exact_model)
    errors = {}
    for every in (2, 3):
        guided = run_node(host, "RLGBudget", exact_model, "exact", every, 0.0, "auto")[0]
        with counted_calls(guided) as rows:
            errors[every] = rms(settings.run(host, guided) - exact) / rms(exact)
        assert len(rows) == 12 and rows.count(4) == 12 // every and rows[0] == rows[-1] == 4
    linearised = settings.run(host, run_node(host, "RLGBudget", exact_model, "linearised", 1, 0.0, "auto")[0])
    assert 0 < errors[2] < errors[3] < 0.1
    assert errors[2] < rms(linearised - exact) / rms(exact)


def test_tolerance_evaluates_where_it_has_to(host, pair):
    settings = Sampling(steps=12)
    exact_model = guide(host, pair[1], pair[2], 2.0)
    counts = []
    for tolerance in (1e-6, 0.5):
        guided = run_node(host, "RLGBudget", exact_model, "exact", 6, tolerance, "auto")[0]
        with counted_calls(guided) as rows:
            settings.run(host, guided)
        counts.append(rows.count(4))
    assert counts[0] == 12 and 3 <= counts[1] < 7


def test_inner_calls_of_second_order_samplers_are_never_read_off(host, pair):
    guided = run_node(host, "RLGBudget", guide(host, pair[1], pair[2], 2.0), "exact", 4, 0.0, "auto")[0]
    settings = Sampling(steps=6, sampler="dpm_2")
    sigmas = {round(float(s), 5) for s in settings.sigmas(host, pair[1])}
    seen = []
    hook = guided.model.diffusion_model.register_forward_pre_hook(
        lambda module, args, kwargs: seen.append((args[0].shape[0], round(float(args[1][0]) / 1000, 5))),
        with_kwargs=True,
    )
    try:
        settings.run(host, guided)
    finally:
        hook.remove()
    assert any(sigma not in sigmas for _, sigma in seen)
    assert all(rows == 4 for rows, sigma in seen if sigma not in sigmas)
    assert any(rows == 2 for rows, _ in seen)


def test_sequential_passes_agree_with_the_batch(host, pair):
    guided = guide(host, pair[1], pair[2], 2.0)
    apart = run_node(host, "RLGBudget", guided, "exact", 1, 0.0, "sequential")[0]
    settings = Sampling()
    batched = settings.run(host, guided)
    with counted_calls(apart) as rows:
        assert (settings.run(host, apart) - batched).abs().max() < CLOSE
    assert rows == [2] * 16


@pytest.mark.parametrize("values", [("linearised", 2, 0.0, "auto"), ("exact", 1, 0.1, "auto")])
def test_budgets_that_contradict_themselves(host, pair, values):
    with pytest.raises(ValueError, match="refresh_every"):
        run_node(host, "RLGBudget", guide(host, pair[1], pair[2]), *values)


def test_a_budget_keeps_experts_apart(host, pair):
    """From the step on at which the first expert's window ends, its difference says nothing of the second's."""
    first = guide(host, pair[1], pair[2], 2.0, end_percent=0.5, outside_scale=0.0)
    budget = run_node(host, "RLGBudget", guide(host, first, pair[3], 2.0), "exact", 16, 0.0, "auto")[0]
    watched, trace = run_node(host, "RLGTrace", budget)
    Sampling(steps=8).run(host, watched)
    alone = [entry.evaluated for entry in trace.entries if "rl 1" not in entry.evaluated]
    assert alone[0] == ("base", "rl 2") and ("rl 2",) in alone


@pytest.mark.parametrize("sampler", ["euler", "heun"])
def test_a_budget_is_off_where_one_step_makes_several_calls(host, pair, sampler):
    def twice(apply_model, arguments):
        results = [apply_model(arguments["input"], arguments["timestep"], **arguments["c"]) for _ in range(2)]
        return results[-1]

    exact = guide(host, pair[1], pair[2], 2.0)
    if sampler == "euler":  # a node that samples in tiles, say; Heun's corrector comes at the next step's sigma
        exact.set_model_unet_function_wrapper(twice)
    budget = run_node(host, "RLGBudget", exact, "exact", 2, 0.0, "auto")[0]
    settings = Sampling(steps=4, sampler=sampler)
    difference = (settings.run(host, budget) - settings.run(host, exact)).abs().max()
    assert difference == 0 if sampler == "euler" else difference < 0.05
    watched, trace = run_node(host, "RLGTrace", budget)
    settings.run(host, watched)
    assert [(entry.step, entry.evaluated) for entry in trace.entries] == [(step, ("base", "rl 1")) for step in range(4)]


def test_one_budget_a_model(host, pair):
    guided = run_node(host, "RLGBudget", guide(host, pair[1], pair[2]), "exact", 2, 0.0, "auto")[0]
    with pytest.raises(ValueError, match="already"):
        run_node(host, "RLGBudget", guided, "exact", 2, 0.0, "auto")
    with pytest.raises(ValueError, match="without RLG"):
        run_node(host, "RLGBudget", pair[1], "exact", 2, 0.0, "auto")


@torch.no_grad()
def test_trace_measures_with_one_evaluation_more(host, pair):
    adapted, model = pair[:2]
    settings = Sampling(shape=(2, 16, 8, 8))
    watched, trace = run_node(host, "RLGTrace", guide(host, model, pair[2], 2.0))
    latent = {"samples": settings.run(host, watched)}
    with counted_calls(watched) as rows:
        settings.run(host, watched)
    assert rows == [8] * 2 + [4] + [8] * 6  # the linearised model, a third of the way through
    plot, text, after = run_node(host, "RLGTracePlot", trace, latent)
    entries = json.loads(text)
    assert after is latent and plot.ndim == 4
    assert [(e["step"], e["image"]) for e in entries] == [(s, i) for s in range(8) for i in range(2)]
    first = paper.Predictions(adapted, settings, settings.noise(), settings.sigmas(host, model)[0])
    difference = (first.pair("default")[0] - first.pair("base")[0])[0]
    assert entries[0]["difference"] == pytest.approx(rms(difference), rel=1e-3)
    cfg = (first.pair("base")[0] - first.pair("base")[1])[0].flatten()
    guidance = (2.0 * (first.guided("default", CFG) - first.guided("base", CFG)))[0].flatten()
    cosine = torch.nn.functional.cosine_similarity(cfg, guidance, dim=0)
    assert entries[0]["angle"] == pytest.approx(torch.rad2deg(torch.acos(cosine)).item(), abs=0.1)
    assert all(e["scale"] == 2.0 and e["path_kl"] > 0 and e["evaluated"] == ["base", "rl 1"] for e in entries)


@torch.no_grad()
@pytest.mark.parametrize("scale, would_do", [(1.01, True), (4.0, False)])
def test_trace_says_where_a_lora_strength_would_do(host, pair, scale, would_do):
    adapted, model = pair[:2]
    settings = Sampling(steps=1, cfg=1.0)
    watched, trace = run_node(host, "RLGTrace", guide(host, model, pair[2], scale))
    latent = {"samples": settings.run(host, watched)}
    at = paper.Predictions(adapted, settings, settings.noise(), settings.sigmas(host, model)[0])
    exact = at.guided("base", 1.0) + scale * (at.guided("default", 1.0) - at.guided("base", 1.0))
    layers = [layer for layer in adapted.modules() if hasattr(layer, "set_scale")]
    for layer in layers:
        layer.set_scale("default", scale)
    slider = paper.Predictions(adapted, settings, at.x, at.sigma).guided("default", 1.0)
    for layer in layers:
        layer.set_scale("default", 1.0)
    expected = rms(slider - exact) / rms(exact)
    assert trace.entries[0].linearised_error == pytest.approx(expected, rel=1e-2)
    assert (expected <= 0.02) == would_do
    statement = host.module("rlg_core.trace").linearised_statement(trace.entries)
    assert ("would do" in statement) == would_do
    assert run_node(host, "RLGTracePlot", trace, latent)[0].ndim == 4


@pytest.mark.parametrize("extra", [{"rescale": 0.5}, {"mask": torch.ones(1, 8, 8)}])
def test_trace_checks_nothing_where_one_strength_cannot_stand_for_guidance(host, pair, extra):
    watched, trace = run_node(host, "RLGTrace", guide(host, pair[1], pair[2], 2.0, **extra))
    Sampling(steps=3).run(host, watched)
    assert len(trace.entries) == 3 and all(entry.linearised_error is None for entry in trace.entries)


def test_trace_evaluates_nothing_for_calls_it_passes_over(host, pair):
    """Prompts with areas: every call is on a part of the latent."""
    area = {"area": (4, 8, 2, 0), "strength": 1.0}
    prompts = [[[text, extra | area] for text, extra in conditioning(seed)] for seed in (11, 12)]
    settings = Sampling(steps=3, positive=prompts[0], negative=prompts[1])
    guided = guide(host, pair[1], pair[2], 2.0)
    watched, trace = run_node(host, "RLGTrace", guided)
    settings.run(host, guided)  # the first run verifies its batched calls
    counts = []
    for model in (guided, watched):
        with counted_calls(model) as rows:
            settings.run(host, model)
        counts.append(rows)
    assert counts[0] == counts[1] and len(counts[0]) > 0 and trace.entries == []


def test_trace_tells_the_positive_prompts_scale(host, pair):
    branch = run_node(host, "RLGBranch", 0.0, 1.5, 0.5)[0]
    watched, trace = run_node(host, "RLGTrace", guide(host, pair[1], pair[2], 2.0, branch=branch))
    Sampling(steps=2).run(host, watched)
    assert [entry.scale for entry in trace.entries] == [3.0, 3.0]


def test_pictures_at_risk_are_named(host, pair, caplog):
    """A budget of two refreshes at an absurd scale: what they show is far off."""
    budget = run_node(host, "RLGBudget", guide(host, pair[1], pair[2], 20.0), "exact", 16, 0.0, "auto")[0]
    watched, trace = run_node(host, "RLGTrace", budget)
    Sampling(steps=6, shape=(2, 16, 8, 8)).run(host, watched)
    risks = [entry.risk for entry in trace.entries if entry.step == 5]
    assert all(risk > 0.5 for risk in risks) and all(e.risk is None for e in trace.entries if e.step < 5)
    assert "2 of 2 pictures may be far from exact guidance (number 0, 1" in caplog.text


def test_the_risk_of_several_experts_counts_all_their_weights(host, pair):
    """At w = 1 the first alone would need no base."""
    both = guide(host, guide(host, pair[1], pair[2], 1.0), pair[2], 19.0)
    watched, trace = run_node(host, "RLGTrace", run_node(host, "RLGBudget", both, "exact", 16, 0.0, "auto")[0])
    Sampling(steps=6).run(host, watched)
    assert [entry.risk > 0.5 for entry in trace.entries if entry.step == 5] == [True]


def test_the_time_of_a_flow_is_its_sigma(host, pair):
    clock = host.module("nodes.host.run.scales").Clock(pair[1].get_model_object("model_sampling"))
    assert [clock.time(sigma) for sigma in (1.0, 0.37)] == [1.0, 0.37]


def test_trace_says_what_a_budget_skipped(host, pair):
    budget = run_node(host, "RLGBudget", guide(host, pair[1], pair[2], 2.0), "exact", 2, 0.0, "auto")[0]
    watched, trace = run_node(host, "RLGTrace", budget)
    Sampling(steps=4).run(host, watched)
    assert [e.evaluated for e in trace.entries] == [("base", "rl 1"), ("rl 1",), ("rl 1",), ("base", "rl 1")]


def test_an_empty_trace_says_why(host, pair):
    _, trace = run_node(host, "RLGTrace", guide(host, pair[1], pair[2]))
    with pytest.raises(ValueError, match="no sampler has run"):
        run_node(host, "RLGTracePlot", trace, {"samples": torch.zeros(1, 16, 8, 8)})


@pytest.mark.parametrize("scale", [0.0, 1.0])
def test_a_trace_measures_nothing_where_one_model_ran(host, pair, scale):
    watched, trace = run_node(host, "RLGTrace", guide(host, pair[1], pair[2], scale))
    Sampling(steps=3).run(host, watched)
    assert len(trace.entries) == 3
    assert all((e.difference, e.share, e.angle, e.path_kl) == (None,) * 4 for e in trace.entries)
    assert run_node(host, "RLGTracePlot", trace, {"samples": torch.zeros(1, 16, 8, 8)})[0].ndim == 4


def test_rescale_counts_where_an_expert_with_a_cfg_of_its_own_rests(host, pair):
    """At scale 0 what is left is the other expert, rescaled as by itself."""
    branch = run_node(host, "RLGBranch", 1.0, 1.0, 1.0)[0]
    settings = Sampling(steps=3)
    alone = guide(host, pair[1], pair[3], 3.0, rescale=0.7)
    resting = guide(host, alone, pair[2], 0.0, branch=branch)
    assert (settings.run(host, resting) - settings.run(host, alone)).abs().max() < CLOSE


def test_rescale_counts_with_a_cfg_of_its_own_too(host, pair):
    branch = run_node(host, "RLGBranch", 1.0, 1.0, 1.0)[0]
    settings = Sampling(steps=1)
    free, fitted = (guide(host, pair[1], pair[2], 3.0, rescale=strength, branch=branch) for strength in (0.0, 1.0))
    rl = guide(host, pair[1], pair[2], 1.0, branch=branch)
    spread = [latent_of(pair[1], settings, host, model).std().item() for model in (free, fitted, rl)]
    assert spread[1] == pytest.approx(spread[2], rel=1e-3)
    assert abs(spread[0] - spread[2]) > 1e-3 * spread[2]


def test_linearised_refuses_what_it_would_lose(host, pair):
    """At the node that asks for it, whichever of the two comes last."""

    def budget(model):
        return run_node(host, "RLGBudget", model, "linearised", 1, 0.0, "auto")[0]

    other = tiny.load(host, tiny.sd3_transformer(seed=9))
    plain = guide(host, pair[1], pair[2])
    masked = guide(host, pair[1], pair[2], mask=torch.ones(1, 8, 8))
    mixed, rescaled = guide(host, plain, other, 0.5), guide(host, pair[1], pair[2], rescale=0.5)
    for guided, lost in ((mixed, "RL checkpoint"), (rescaled, "rescale"), (masked, "a mask")):
        with pytest.raises(ValueError, match=lost):
            budget(guided)
    with pytest.raises(ValueError, match="RLG Trace"):
        run_node(host, "RLGTrace", budget(plain))
    with pytest.raises(ValueError, match="RLG Trace"):
        budget(run_node(host, "RLGTrace", plain)[0])
    with pytest.raises(ValueError, match="RL checkpoint"):
        guide(host, budget(plain), other, 0.5)
