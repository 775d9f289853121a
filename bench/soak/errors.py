"""Graphs that have to end in an error of the pack, each with a part of its message."""

from __future__ import annotations

from collections.abc import Callable

from .builder import Builder, Graph


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
    guided = build.budgeted(build.guided(model, build.adapter(model)), refresh_every=2)
    return build.probe(build.sampled(build.budgeted(guided))), "RLG Budget already"


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
