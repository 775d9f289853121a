"""Nodes of the soak test alone: conditioning without a text encoder, a latent's hash, and what is alive in the server.

They are nodes of the host's first API, so that nothing of the pack is imported: the server without it has them too.
"""

import ctypes
import gc
import hashlib
import sys

import comfy.model_base
import torch


class SoakConditioning:
    """Random text features, from a seed."""

    CATEGORY, FUNCTION, RETURN_TYPES = "soak", "make", ("CONDITIONING",)

    @classmethod
    def INPUT_TYPES(cls):
        return {"required": {"seed": ("INT", {}), "width": ("INT", {"max": 8192}), "pooled": ("INT", {"max": 8192})}}

    def make(self, seed, width, pooled):
        generator = torch.Generator().manual_seed(seed)
        text = torch.randn(1, 7, width, generator=generator)
        return ([[text, {"pooled_output": torch.randn(1, pooled, generator=generator)} if pooled else {}]],)


class SoakProbe:
    """The hash of a latent's bits."""

    CATEGORY, FUNCTION, RETURN_TYPES, OUTPUT_NODE = "soak", "look", (), True

    @classmethod
    def INPUT_TYPES(cls):
        return {"required": {"latent": ("LATENT",)}}

    def look(self, latent):
        samples = latent["samples"].detach().cpu().contiguous()
        assert bool(samples.isfinite().all()), "the latent is not finite"
        return {"ui": {"sha": [hashlib.sha256(samples.numpy().tobytes()).hexdigest()]}}


class SoakCounts:
    """What of the pack is alive, and what is patched or hooked in the models, now."""

    CATEGORY, FUNCTION, RETURN_TYPES, OUTPUT_NODE = "soak", "count", (), True

    @classmethod
    def INPUT_TYPES(cls):
        return {"required": {"tick": ("INT", {"max": 2**31})}}

    def count(self, tick):
        gc.collect()
        counts = pack_counts() | model_counts()
        if sys.platform == "linux":
            ctypes.CDLL(None).malloc_trim(0)
        return {"ui": {"counts": [counts], "allocated": [allocated_bytes()], "blocks": [sys.getallocatedblocks()]}}


class Mallinfo(ctypes.Structure):
    """What glibc's `mallinfo2` returns."""

    _fields_ = [
        (name, ctypes.c_size_t)
        for name in (
            *("arena", "ordblks", "smblks", "hblks", "hblkhd"),
            *("usmblks", "fsmblks", "uordblks", "fordblks", "keepcost"),
        )
    ]


def allocated_bytes():
    """Bytes that `malloc` has given out and not got back; None where the system's library does not tell (not glibc).

    Without what is free between them, which counts as resident. Small objects of Python's are in memory of its own.
    """
    mallinfo = getattr(ctypes.CDLL(None), "mallinfo2", None) if sys.platform == "linux" else None
    if mallinfo is None:
        return None
    mallinfo.restype = Mallinfo
    found = mallinfo()
    return found.uordblks + found.hblkhd


def pack_module(name):
    """A module of the pack, whatever the host calls the pack; None where it is not loaded."""
    return next((module for key, module in list(sys.modules.items()) if key.endswith(f".nodes.host.{name}")), None)


def pack_counts():
    """Objects of the pack by kind, and the sizes of what it keeps from run to run; empty without the pack."""
    bank, verification = pack_module("models.term_bank"), pack_module("run.verification")
    if bank is None:
        return {}
    kinds = {"TermBank": "live banks", "Run": "live runs", "Passes": "live passes", "Turn": "live turns"}
    counts = dict.fromkeys(kinds.values(), 0)
    for thing in gc.get_objects():
        kind = type(thing)
        if kind.__name__ in kinds and "rlg" in kind.__module__.lower():
            counts[kinds[kind.__name__]] += 1
    return counts | {
        "banks kept": sum(map(len, bank._banks.values())),
        "verdicts, most of a model": max(map(len, verification._kept.values()), default=0),
        "models with verdicts": len(verification._kept),
        "runs under way": len(pack_module("run.wrapper")._running),
        "states of other nodes kept": len(pack_module("run.passes")._last),
    }


def model_counts():
    """Models alive, and modules in them with a forward, a hook or a wrapper that is not their own."""
    models = [thing for thing in gc.get_objects() if isinstance(thing, comfy.model_base.BaseModel)]
    modules = [module for model in models for module in model.modules()]
    return {
        "models": len(models),
        "patched modules": sum("forward" in vars(module) for module in modules),
        "hooked modules": sum(bool(module._forward_hooks or module._forward_pre_hooks) for module in modules),
    }


NODE_CLASS_MAPPINGS = {cls.__name__: cls for cls in (SoakConditioning, SoakProbe, SoakCounts)}
