"""After a fault at any place of a run, the plain graph is the same to the bit and the next RLG graph is right.

Interrupts at steps, errors inside the model's blocks and unloading between runs are in test_robustness.py.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import cache

import pytest
import torch
from safetensors.torch import save_file
from torch.utils._python_dispatch import TorchDispatchMode

from support import leftovers, tiny
from support.guiding import guide, run_node
from support.sampling import Sampling, counted_calls

SETTINGS = Sampling(steps=2)
BATCHED = [4] * SETTINGS.steps


@cache
def adapter():
    return tiny.sd3_lora(depth=1)


class Setting:
    """A pair, a guided MODEL of it, and what both make undisturbed."""

    def __init__(self, host, kind):
        self.host, self.kind = host, kind
        self.model = tiny.load(host, tiny.sd3_transformer(depth=1))
        if kind == "checkpoints":
            self.rl_model = tiny.load(host, tiny.sd3_transformer(seed=5, depth=1))
        else:
            self.rl_model = tiny.with_lora(host, self.model, adapter())
        self.factor = self.model.model.memory_usage_factor
        self.plain, self.expected = SETTINGS.run(host, self.model), SETTINGS.run(host, self.guided())

    def guided(self):
        mask = torch.linspace(0, 1, 64).reshape(1, 8, 8)
        guided = guide(self.host, self.model, self.rl_model, 2.0, rescale=0.5, mask=mask, outside_scale=0.5)
        if self.kind == "sequential":
            guided = run_node(self.host, "RLGBudget", guided, "exact", 1, 0.0, "sequential")[0]
        return run_node(self.host, "RLGTrace", guided)[0]

    def forget(self):
        """Has the next run verify its batches again, as the first one does."""
        self.host.module("nodes.host.run.verification")._kept.pop(self.model.model, None)

    def assert_unharmed(self):
        leftovers.assert_none(self.host, self.model, self.rl_model, factor=self.factor)
        assert torch.equal(SETTINGS.run(self.host, self.model), self.plain)
        assert torch.equal(SETTINGS.run(self.host, self.guided()), self.expected)


@pytest.fixture(scope="module", params=["batched", "sequential", "checkpoints"])
def setting(request, host):
    return Setting(host, request.param)


@pytest.fixture(scope="module")
def batched(host):
    return Setting(host, "batched")


@contextmanager
def raising(error, call: int, *models) -> Iterator[list[int]]:
    """Raises `error` in the given call of the networks, counted from 1; the list has a member per call."""
    calls: list[int] = []

    def count(module, args):
        calls.append(args[0].shape[0])
        if len(calls) == call:
            raise error

    with ExitStack() as stack:
        for model in models:
            stack.callback(model.model.diffusion_model.register_forward_pre_hook(count).remove)
        yield calls


def test_interrupted_inside_each_pass(host, setting):
    interruption = host.comfy.model_management.InterruptProcessingException
    networks = {model.model: model for model in (setting.model, setting.rl_model)}.values()
    setting.forget()
    with raising(None, 0, *networks) as calls:
        SETTINGS.run(host, setting.guided())
    assert len(calls) >= 4
    for call in range(1, len(calls) + 1):
        setting.forget()
        with raising(interruption(), call, *networks), pytest.raises(interruption):
            SETTINGS.run(host, setting.guided())
        setting.assert_unharmed()


PLACES = {
    "the scales": ("nodes.host.run.scales", "Scales.of"),
    "the mask": ("nodes.host.run.regions", "Regions.mask"),
    "the step": ("nodes.host.run.run", "Run._predict"),
    "a pass": ("nodes.host.run.passes", "Turn._run"),
    "the rows of a role": ("nodes.host.run.calls", "ModelCall.for_roles"),
    "the comparison": ("nodes.host.run.passes", "error_of"),
    "attaching terms": ("rlg_core.rows.attach", "RowTerms.attached"),
    "a term": ("rlg_core.rows.terms", "LinearTerms.add_to"),
    "watching blocks": ("rlg_core.rows.watch", "BlockWatch.watching"),
    "other nodes' state": ("nodes.host.run.remembered", "Remembered.hand_over"),
    "wholeness": ("nodes.host.run.wholeness", "Wholeness.require_whole"),
    "combine": ("nodes.host.run.run", "geometric_mean"),
    "rescale": ("nodes.host.run.run", "rescale"),
    "the trace": ("nodes.host.run.tracing", "RunTrace.observe"),
    "the trace's entries": ("nodes.host.run.tracing", "RunTrace._write"),
}


def broken(host, monkeypatch, place: str, call: int) -> list[int]:
    """Makes a function of the pack raise in one of its calls; the list has a member per call."""
    module, name = PLACES[place]
    *owner, function = name.split(".")
    home = host.module(module)
    home = getattr(home, owner[0]) if owner else home
    original, calls = getattr(home, function), []

    def fails(*args, **named):
        calls.append(1)
        if len(calls) == call:
            raise ValueError("injected")
        return original(*args, **named)

    monkeypatch.setattr(home, function, fails)
    return calls


@pytest.mark.parametrize(
    "place, call", [*((place, 1) for place in PLACES), ("a pass", 2), ("a pass", 3), ("a term", 9)]
)
def test_an_error_of_ours(host, batched, monkeypatch, place, call):
    batched.forget()
    with monkeypatch.context() as patched:
        calls = broken(host, patched, place, call)
        try:
            SETTINGS.run(host, batched.guided())
        except ValueError as error:
            assert str(error) == "injected"
        else:
            assert 0 < len(calls) < call, f"{place} never ran, or its error was swallowed"
    batched.assert_unharmed()


def test_an_error_in_a_reward_and_in_a_plot(host, batched, monkeypatch):
    judge = run_node(host, "RLGRewardLoader", "brightness (demo)", "none")[0]
    pictures = torch.rand(1, 16, 16, 3)
    score = judge.scores(pictures, [""])

    def fails(*_):
        raise ValueError("injected")

    with monkeypatch.context() as patched:
        patched.setattr(judge, "score", fails)
        with pytest.raises(ValueError, match="injected"):
            judge.scores(1 - pictures, [""])
    assert judge.scores(pictures, [""]) == score and judge.scores(1 - pictures, [""]) != score

    guided, log = run_node(host, "RLGTrace", guide(host, batched.model, batched.rl_model, 2.0))
    latent = {"samples": SETTINGS.run(host, guided)}
    with monkeypatch.context() as patched:
        patched.setattr(host.module("nodes.trace"), "plot", fails)
        with pytest.raises(ValueError, match="injected"):
            run_node(host, "RLGTracePlot", log, latent)
    assert run_node(host, "RLGTracePlot", log, latent)[2] is latent
    batched.assert_unharmed()


# Out of memory


class OutOfMemoryAt(TorchDispatchMode):
    """Raises at one operation, counted from 1. Every operation may allocate."""

    def __init__(self, at: int, error: Exception):
        super().__init__()
        self.at, self.error, self.count = at, error, 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        self.count += 1
        if self.count == self.at:
            raise self.error
        return function(*args, **(kwargs or {}))


@contextmanager
def out_of_memory(host, monkeypatch, at: int, error: Exception) -> Iterator[list[int]]:
    """The batched pass of base and RL rows runs out of memory at one operation; the list has each pass's operations."""
    turn, counts = host.module("nodes.host.run.passes").Turn, []
    original = turn._batched

    def batched(self, roles):
        with OutOfMemoryAt(at, error) as mode:
            try:
                return original(self, roles)
            finally:
                counts.append(mode.count)

    with monkeypatch.context() as patched:
        patched.setattr(turn, "_batched", batched)
        yield counts


def no_room():
    """What torch raises where the memory of the processor itself is used up."""
    with pytest.raises(RuntimeError) as raised:
        torch.empty(2**60, dtype=torch.uint8)
    return raised.value


@pytest.mark.parametrize("cause", ["device", "processor"])
def test_out_of_memory_at_an_operation_of_the_batch(host, batched, monkeypatch, request, cause):
    """Falls back to separate passes, which make the same picture, and batches again in the next run.

    Ten places are tried, spread over the pass and others for each cause; `--places all` tries every one. At one of them
    (the softmax of attention, on a device) the host has a way with less memory, so that the batch goes on.
    """
    error = torch.cuda.OutOfMemoryError("no room") if cause == "device" else no_room()
    batched.forget()
    with out_of_memory(host, monkeypatch, 0, error) as counts:
        SETTINGS.run(host, batched.guided())
    total = counts[0]
    assert total > 100
    places = range(1, total + 1)
    if request.config.getoption("--places") == "ten":
        places = places[cause == "processor" :: total // 10]
    for at in places:
        guided = batched.guided()
        with out_of_memory(host, monkeypatch, at, error) as counts, counted_calls(batched.model) as rows:
            latent = SETTINGS.run(host, guided)
        goes_on = counts[0] > at
        assert rows[-2:] == ([4, 4] if goes_on else [2, 2]), f"operation {at} of {total}"
        assert torch.allclose(latent, batched.expected, atol=1e-5), f"operation {at} of {total}"
        leftovers.assert_none(host, batched.model, factor=batched.factor)
        with counted_calls(batched.model) as rows:
            assert torch.equal(SETTINGS.run(host, guided), batched.expected), f"operation {at} of {total}"
        assert rows == BATCHED, f"operation {at} of {total}: batching did not come back"
    batched.assert_unharmed()


# Models and files that change under a run


@pytest.mark.parametrize("step", range(SETTINGS.steps))
def test_models_evicted_between_steps(host, setting, step):
    def evict(current, denoised, x, steps):
        if current == step:
            host.comfy.model_management.unload_all_models()

    assert torch.equal(SETTINGS.run(host, setting.guided(), evict), setting.expected)
    setting.assert_unharmed()


@pytest.mark.parametrize("harm", ["deleted", "truncated", "zeroed", "replaced"])
def test_an_adapter_file_harmed_between_loading_and_sampling(host, batched, tmp_path, monkeypatch, harm):
    file = tmp_path / "rl.safetensors"
    save_file(adapter(), file)
    monkeypatch.setitem(host.folder_paths.folder_names_and_paths, "loras", ([str(tmp_path)], {".safetensors"}))
    rl_model = run_node(host, "RLGAdapterLoader", batched.model, file.name, 1.0, 0.0, "")[0]
    size = file.stat().st_size
    if harm == "deleted":
        file.unlink()
    elif harm == "truncated":
        with file.open("r+b") as opened:
            opened.truncate(100)
    elif harm == "zeroed":
        with file.open("r+b") as opened:
            opened.write(bytes(size))
    else:
        other = {name: -value for name, value in adapter().items()}
        save_file(other, tmp_path / "other.safetensors")
        (tmp_path / "other.safetensors").replace(file)
    expected = SETTINGS.run(host, guide(host, batched.model, batched.rl_model, 2.0))
    assert torch.allclose(SETTINGS.run(host, guide(host, batched.model, rl_model, 2.0)), expected, atol=1e-5)
    batched.assert_unharmed()
