"""The prompts of a soak: small graphs of every kind, drawn by a seed."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass

from .builder import ADAPTERS, Builder, Graph
from .errors import ERRORS


@dataclass(frozen=True)
class Prompt:
    """A graph; `kind` names what it is about. An `error` is part of the message in which it has to end."""

    kind: str
    graph: Graph
    error: str = ""
    interrupts: bool = False


# Without the pack


def plain(build: Builder) -> Graph:
    return build.probe(build.sampled(build.model()))


def plain_full(build: Builder) -> Graph:
    model = build.node("UNETLoader", unet_name="rlg-demo-full-rl.safetensors", weight_dtype="default")
    return build.probe(build.sampled(model))


def other_model(build: Builder, guide: bool = False) -> Graph:
    """Another architecture, without a text encoder."""
    name, width, pooled = build.draw.choice((("soak-sd3", 96, 64), ("soak-wan", 4096, 0), ("soak-unet", 768, 0)))
    model = build.node("UNETLoader", unet_name=f"{name}.safetensors", weight_dtype="default")
    if guide:
        model = build.guided(model, build.adapter(model, f"{name}-rl.safetensors"))
    positive, negative = (build.node("SoakConditioning", seed=k, width=width, pooled=pooled) for k in (1, 2))
    if name == "soak-wan":
        latent = build.node("EmptyHunyuanLatentVideo", width=64, height=64, length=1, batch_size=1)
    elif name == "soak-unet":
        latent = build.node("EmptyLatentImage", width=64, height=build.draw.choice((64, 96)), batch_size=1)
    else:
        latent = build.latent()
    return build.probe(
        build.node(
            "KSampler",
            model=model,
            positive=positive,
            negative=negative,
            latent_image=latent,
            seed=build.draw.choice((1, 2)),
            steps=2,
            cfg=3.0,
            denoise=1.0,
            sampler_name="euler",
            scheduler="simple",
        )
    )


def stock_lora(build: Builder) -> Graph:
    strength = build.draw.choice((0.5, 1.0))
    name = "soak-style.safetensors"
    model = build.node("LoraLoaderModelOnly", model=build.model(), lora_name=name, strength_model=strength)
    return build.probe(build.sampled(model))


def decoded(build: Builder) -> Graph:
    latent = build.sampled(build.model())
    build.node("SaveImage", images=build.picture(latent), filename_prefix="soak")
    return build.probe(latent)


STOCK: tuple[Callable[[Builder], Graph], ...] = (plain, plain_full, other_model, stock_lora, decoded)


# With it


def lora_pair(build: Builder) -> Graph:
    model = build.model()
    return build.probe(build.sampled(build.guided(model, build.adapter(model))))


def turned(build: Builder) -> Graph:
    """A scale and a strength that no other prompt has."""
    model = build.model()
    loader = build.adapter(model)
    build.graph[loader[0]]["inputs"]["strength"] = round(build.draw.uniform(0.1, 2.0), 6)
    return build.probe(build.sampled(build.guided(model, loader, scale=round(build.draw.uniform(-3, 5), 6))))


def style_on_both(build: Builder) -> Graph:
    strength = round(build.draw.uniform(0.1, 1.5), 6)
    model = build.node(
        "LoraLoaderModelOnly", model=build.model(), lora_name="soak-style.safetensors", strength_model=strength
    )
    return build.probe(build.sampled(build.guided(model, build.adapter(model))))


def guided_other(build: Builder) -> Graph:
    return other_model(build, guide=True)


def checkpoints(build: Builder) -> Graph:
    names = {name: f"diffusion_models/rlg-demo-{file}.safetensors" for name, file in CHECKPOINTS.items()}
    compress = build.draw.choice(("off", "off", "low-rank"))
    model, _ = build.node("RLGCheckpointPairLoader", **names, weight_dtype="default", compress=compress, rank=4), None
    return build.probe(build.sampled(build.guided(model, [model[0], 1])))


CHECKPOINTS = {"base_name": "base", "rl_name": "full-rl"}


def experts(build: Builder) -> Graph:
    model = build.model()
    guided = model
    for name in build.draw.sample(ADAPTERS, 2):
        guided = build.guided(guided, build.adapter(model, name))
    if build.draw.random() < 0.5:
        guided = build.budgeted(guided, experts="merged")
    return build.probe(build.sampled(guided))


def schedule(build: Builder) -> Graph:
    model = build.model()
    shape = build.draw.choice(("constant", "linear", "cosine", "power", "interval"))
    window = {"start_percent": build.draw.choice((0.0, 0.2)), "end_percent": build.draw.choice((0.6, 1.0))}
    curve = build.node("RLGSchedule", shape=shape, scale_from=2.0, scale_to=0.5, power=2.0, **window)
    return build.probe(build.sampled(build.guided(model, build.adapter(model), schedule=curve)))


def mask(build: Builder) -> Graph:
    model = build.model()
    size = build.draw.choice((32, 64, 100))
    solid = build.node("SolidMask", value=build.draw.choice((0.0, 0.3, 1.0)), width=size, height=64)
    return build.probe(build.sampled(build.guided(model, build.adapter(model), mask=solid, outside_scale=0.0)))


def branch(build: Builder) -> Graph:
    model = build.model()
    values = build.draw.choice(((1.0, 1.0, 1.0), (4.0, 1.0, 1.0), (0.0, 1.0, 0.0), (0.0, 0.5, 2.0)))
    parts = dict(zip(("rl_cfg", "positive_scale", "negative_scale"), values))
    node = build.node("RLGBranch", **parts)
    return build.probe(build.sampled(build.guided(model, build.adapter(model), branch=node)))


def bounded(build: Builder) -> Graph:
    model = build.model()
    extra = build.draw.choice(({"rescale": 0.7}, {"max_ratio": 0.1}, {"rescale": 1.0, "max_ratio": 0.2}))
    return build.probe(build.sampled(build.guided(model, build.adapter(model), **extra)))


def budget(build: Builder) -> Graph:
    model = build.model()
    extra = build.draw.choice(
        (
            {"evaluate": "linearised"},
            {"evaluate": "segmented"},
            {"refresh_every": 2},
            {"refresh_every": 4, "tolerance": 0.05},
            {"batching": "sequential"},
            {"batching": "batched"},
        )
    )
    guided = build.guided(model, build.adapter(model))
    return build.probe(build.sampled(build.budgeted(guided, **extra), steps=5))


def trace(build: Builder) -> Graph:
    model = build.model()
    watched = build.node("RLGTrace", model=build.guided(model, build.adapter(model), scale=2.0))
    plot = build.node("RLGTracePlot", trace=[watched[0], 1], after=build.sampled(watched))
    return build.probe([plot[0], 2])


def sweep(build: Builder) -> Graph:
    model = build.model()
    scales = build.node("RLGSweep", scales="0, 1, 2")
    latent = build.sampled(build.guided(model, build.adapter(model), scale=scales))
    grid = build.node("RLGSweepGrid", images=build.picture(latent), scales=scales)
    build.node("PreviewImage", images=grid)
    return build.graph


def batch_sweep(build: Builder) -> Graph:
    model = build.model()
    latents = build.node("RLGBatchSweep", latent=build.latent(batch=1), scales="0, 1, 2.5")
    guided = build.guided(model, build.adapter(model), schedule=[latents[0], 1])
    return build.probe(build.sampled(guided, latents))


def reward(build: Builder) -> Graph:
    model = build.model()
    kind = build.draw.choice(("JPEG compressibility", "brightness (demo)", "scene judge (demo)"))
    latent = build.sampled(build.guided(model, build.adapter(model)), build.latent(batch=3))
    images = build.picture(latent)
    judge = build.node("RLGRewardLoader", reward=kind, folder="none")
    scores = build.node("RLGReward", image=images, reward=judge, prompt="three red circles")
    build.node("RLGPickBest", images=images, scores=scores, keep=1)
    best = [str(len(build.graph)), 0]
    build.node("PreviewImage", images=best)
    return build.probe(latent)


def implicit(build: Builder) -> Graph:
    model = build.model()
    loader = build.adapter(model)
    positive, _ = build.prompts()
    latent = build.sampled(model)
    scores = build.node(
        "RLGImplicitReward", model=model, rl_model=loader, positive=positive, latent=latent, draws=2, seed=1
    )
    images = build.picture(latent)
    best = build.node("RLGPickBest", images=images, scores=scores, keep=1)
    build.node("PreviewImage", images=best)
    return build.graph


def auto_scale(build: Builder) -> Graph:
    model = build.model()
    loader = build.adapter(model)
    positive, negative = build.prompts()
    judge = build.node("RLGRewardLoader", reward="brightness (demo)", folder="none")
    vae = build.node("VAELoader", vae_name="rlg-demo-vae.safetensors")
    found = build.node(
        "RLGAutoScale",
        model=model,
        rl_model=loader,
        positive=positive,
        negative=negative,
        latent=build.latent(batch=1),
        vae=vae,
        reward=judge,
        prompt="three red circles",
        seed=build.draw.randrange(1000),
        steps=2,
        cfg=3.0,
        sampler_name="euler",
        scheduler="simple",
        scale_min=0.0,
        scale_max=3.0,
        evaluations=3,
        images_per_scale=1,
        max_shift=0.0,
        by_stage=False,
    )
    build.node("PreviewImage", images=[found[0], 2])
    return build.graph


def saved(build: Builder) -> Graph:
    model = build.model()
    kind = build.draw.choice(("comfyui", "peft"))
    build.node(
        "RLGSaveAdapter", model=model, rl_model=build.adapter(model), filename_prefix="soak/adapter", format=kind
    )
    return build.graph


GUIDED: tuple[Callable[[Builder], Graph], ...] = (
    *(lora_pair, turned, style_on_both, guided_other, checkpoints, experts, schedule, mask, branch, bounded),
    *(budget, trace, sweep, batch_sweep, reward, implicit, auto_scale, saved),
)


def interrupted(build: Builder) -> Graph:
    model = build.model()
    return build.probe(build.sampled(build.guided(model, build.adapter(model), scale=2.0), steps=400))


def prompt(number: int, seed: int, with_pack: bool) -> Prompt:
    """Prompt `number` of a soak: one in three plain, one in ten an error or an interrupt; the rest guided."""
    draw = random.Random(seed * 1_000_003 + number)
    build, chance = Builder(draw), draw.random()
    if not with_pack or chance < 0.3:
        make = draw.choice(STOCK)
        return Prompt(f"plain: {make.__name__}", make(build))
    if chance < 0.38:
        fail = draw.choice(ERRORS)
        return Prompt(f"error: {fail.__name__}", *fail(build))
    if chance < 0.4:
        return Prompt("error: interrupt", interrupted(build), interrupts=True)
    make = draw.choice(GUIDED)
    return Prompt(f"guided: {make.__name__}", make(build))
