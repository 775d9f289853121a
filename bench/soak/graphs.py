"""The prompts of a soak: small graphs of every kind, drawn by a seed."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

Graph = dict[str, dict[str, Any]]
ADAPTERS = tuple(f"rlg-demo/rl-{name}" for name in ("brightness", "jpeg", "composition", "brightness-beta0.1"))
SCALES = (0.0, 0.5, 1.0, 1.5, 2.0, 3.0, -1.0)


@dataclass(frozen=True)
class Prompt:
    """A graph; `kind` names what it is about. An `error` is part of the message in which it has to end."""

    kind: str
    graph: Graph
    error: str = ""
    interrupts: bool = False


@dataclass
class Builder:
    """A graph under construction; every method adds a node and returns its first output."""

    draw: random.Random
    graph: Graph = field(default_factory=dict)

    def node(self, kind: str, **inputs: Any) -> list:
        name = str(len(self.graph) + 1)
        self.graph[name] = {"class_type": kind, "inputs": inputs}
        return [name, 0]

    def model(self) -> list:
        return self.node("UNETLoader", unet_name="rlg-demo-base.safetensors", weight_dtype="default")

    def adapter(self, model: list, name: str = "") -> list:
        return self.node(
            "RLGAdapterLoader",
            model=model,
            lora_name=name or self.draw.choice(ADAPTERS),
            strength=self.draw.choice((0.5, 1.0, 1.0, 1.25)),
            alpha=0.0,
            adapter="",
        )

    def guided(self, model: list, rl_model: list, **inputs: Any) -> list:
        settings = {"scale": self.draw.choice(SCALES), "start_percent": 0.0, "end_percent": 1.0}
        settings |= {"outside_scale": 1.0, "rescale": 0.0}
        return self.node("RLGApply", model=model, rl_model=rl_model, **settings | inputs)

    def prompts(self) -> tuple[list, list]:
        clip = self.node("CLIPLoader", clip_name="rlg-demo-clip.pt", type="sd3", device="default")
        text = self.draw.choice(("three red circles", "two blue squares"))
        return self.node("CLIPTextEncode", text=text, clip=clip), self.node("CLIPTextEncode", text="", clip=clip)

    def latent(self, batch: int = 0) -> list:
        width, height = self.draw.choice(((64, 64), (96, 64), (96, 96)))
        return self.node(
            "EmptySD3LatentImage", width=width, height=height, batch_size=batch or self.draw.choice((1, 1, 2))
        )

    def sampled(self, model: list, latent: list | None = None, **inputs: Any) -> list:
        positive, negative = self.prompts()
        settings = {"seed": 1, "steps": 2, "cfg": 3.0, "denoise": 1.0, "scheduler": "simple"}
        settings |= {"sampler_name": self.draw.choice(("euler", "heun"))}
        return self.node(
            "KSampler",
            model=model,
            positive=positive,
            negative=negative,
            latent_image=latent or self.latent(),
            **settings | inputs,
        )

    def picture(self, latent: list) -> list:
        vae = self.node("VAELoader", vae_name="rlg-demo-vae.safetensors")
        return self.node("VAEDecode", samples=latent, vae=vae)

    def probe(self, latent: list) -> Graph:
        self.node("SoakProbe", latent=latent)
        return self.graph


# Without the pack


def plain(build: Builder) -> Graph:
    return build.probe(build.sampled(build.model()))


def plain_full(build: Builder) -> Graph:
    model = build.node("UNETLoader", unet_name="rlg-demo-full-rl.safetensors", weight_dtype="default")
    return build.probe(build.sampled(model))


def other_model(build: Builder, guide: bool = False) -> Graph:
    """Another architecture, without a text encoder."""
    name, width, pooled = build.draw.choice((("soak-sd3", 96, 64), ("soak-wan", 4096, 0)))
    model = build.node("UNETLoader", unet_name=f"{name}.safetensors", weight_dtype="default")
    if guide:
        model = build.guided(model, build.adapter(model, f"{name}-rl.safetensors"))
    positive, negative = (build.node("SoakConditioning", seed=k, width=width, pooled=pooled) for k in (1, 2))
    if name == "soak-wan":
        latent = build.node("EmptyHunyuanLatentVideo", width=64, height=64, length=1, batch_size=1)
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
        guided = _budget(build, guided, experts="merged")
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


def _budget(build: Builder, model: list, **inputs: Any) -> list:
    settings = {"evaluate": "exact", "refresh_every": 1, "tolerance": 0.0, "batching": "auto"}
    return build.node("RLGBudget", model=model, **settings | inputs)


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
    return build.probe(build.sampled(_budget(build, guided, **extra), steps=5))


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


# Errors on purpose: (graph, part of the message)


def reversed_window(build: Builder) -> tuple[Graph, str]:
    model = build.model()
    guided = build.guided(model, build.adapter(model), start_percent=0.8, end_percent=0.2)
    return build.probe(build.sampled(guided)), "expected start_percent to be at most end_percent"


def too_many_masks(build: Builder) -> tuple[Graph, str]:
    model = build.model()
    one = build.node("SolidMask", value=1.0, width=64, height=64)
    three = build.node("MaskToImage", mask=one)
    three = build.node("RepeatImageBatch", image=three, amount=3)
    three = build.node("ImageToMask", image=three, channel="red")
    guided = build.guided(model, build.adapter(model), mask=three)
    return build.probe(build.sampled(guided, build.latent(batch=2))), "3 masks for 2 images"


def wrong_batch(build: Builder) -> tuple[Graph, str]:
    model = build.model()
    latents = build.node("RLGBatchSweep", latent=build.latent(batch=1), scales="0, 1, 2")
    guided = build.guided(model, build.adapter(model), schedule=[latents[0], 1])
    return build.probe(build.sampled(guided, build.latent(batch=2))), "3 scales"


def budget_twice(build: Builder) -> tuple[Graph, str]:
    model = build.model()
    guided = _budget(build, build.guided(model, build.adapter(model)), refresh_every=2)
    return build.probe(build.sampled(_budget(build, guided))), "RLG Budget already"


def broken_adapter(build: Builder) -> tuple[Graph, str]:
    model = build.model()
    return build.probe(build.sampled(build.adapter(model, "soak-broken.safetensors"))), "not a whole safetensors file"


def other_architecture(build: Builder) -> tuple[Graph, str]:
    model = build.model()
    return build.probe(build.sampled(build.adapter(model, "soak-wan-rl.safetensors"))), "soak-wan-rl"


def no_scale(build: Builder) -> tuple[Graph, str]:
    scales = build.node("RLGSweep", scales="1, nan")
    model = build.model()
    return build.probe(build.sampled(build.guided(model, build.adapter(model), scale=scales))), "scales has 'nan'"


def empty_trace(build: Builder) -> tuple[Graph, str]:
    model = build.model()
    watched = build.node("RLGTrace", model=build.guided(model, build.adapter(model), scale=2.0))
    plot = build.node("RLGTracePlot", trace=[watched[0], 1], after=build.sampled(model))
    return build.probe([plot[0], 2]), "trace is empty"


ERRORS: tuple[Callable[[Builder], tuple[Graph, str]], ...] = (
    *(reversed_window, too_many_masks, wrong_batch, budget_twice),
    *(broken_adapter, other_architecture, no_scale, empty_trace),
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
