"""What a user sees of the dial: over HTTP, in the pictures' pixels."""

import numpy as np
import pytest
from safetensors.numpy import save_file

from devtools.server import RunFailed
from support.graphs import STARTER, changed, forget, load, pixels, without_guidance


@pytest.fixture(scope="module")
def base_pixels(server):
    return pixels(server, without_guidance(load(), "model"))


def scaled(scale):
    return changed(load(), "RLGApply", scale=scale)


def test_scale_0_is_the_base_model(server, base_pixels):
    assert pixels(server, scaled(0)) == base_pixels


def test_scale_1_is_the_rl_model(server):
    guided, plain = pixels(server, scaled(1)), pixels(server, without_guidance(load(), "rl_model"))
    assert max(abs(a - b) for a, b in zip(guided, plain, strict=True)) <= 1


def test_each_scale_gives_another_picture(server):
    assert len({pixels(server, scaled(scale)) for scale in (0, 0.5, 1, 1.5, 2, 3)}) == 6


def test_the_same_graph_gives_the_same_picture(server):
    first = pixels(server, scaled(1.5))
    forget(server)
    assert pixels(server, scaled(1.5)) == first


def test_interrupting_ends_the_run_and_leaves_nothing_behind(server, base_pixels):
    long = changed(scaled(2), "KSampler", steps=2000)

    def interrupt(node, value, steps):
        assert value < 1000, "the run goes on"
        if value >= 3:
            server.read("/interrupt", {})

    with pytest.raises(RunFailed, match="interrupted in KSampler"):
        pixels(server, long, interrupt)
    forget(server)
    assert pixels(server, without_guidance(load(), "model")) == base_pixels


def test_a_list_of_scales_has_one_progress_bar(server):
    told = []
    server.run(load(STARTER), lambda node, value, steps: told.append((node, value, steps)))
    bars = {node: [(value, steps) for other, value, steps in told if other == node] for node, _, _ in told}
    sampler = max(bars.values(), key=len)
    values, (steps,) = [value for value, _ in sampler], {steps for _, steps in sampler}
    assert values == sorted(values) and values[-1] == steps == 3 * 20


def test_a_broken_file_is_refused_before_anything_runs(server):
    broken_file(server).write_bytes(b"not a safetensors file")
    with pytest.raises(RunFailed) as failure:
        server.run(changed(load(), "RLGAdapterLoader", lora_name="broken.safetensors"))
    (errors,) = failure.value.detail["node_errors"].values()
    assert errors["class_type"] == "RLGAdapterLoader"
    assert "broken.safetensors: not a whole safetensors file" in errors["errors"][0]["details"]


def test_an_error_reaches_the_client_with_the_file_and_the_way_out(server):
    save_file({"a.lora_A.weight": np.full((2, 4), np.nan, np.float32)}, broken_file(server))
    with pytest.raises(RunFailed) as failure:
        server.run(changed(load(), "RLGAdapterLoader", lora_name="broken.safetensors", alpha=2.0))
    told = failure.value.detail
    assert told["node_type"] == "RLGAdapterLoader" and told["exception_type"] == "RLG.AdapterError"
    first, folder, *_ = told["exception_message"].splitlines()
    assert first.startswith("broken.safetensors: ") and "use an earlier checkpoint" in first
    assert folder == f"Folder: {server.folder / 'models' / 'loras'}"


def broken_file(server):
    """The path of a file in a folder of adapters."""
    path = server.folder / "models" / "loras" / "broken.safetensors"
    path.parent.mkdir(parents=True, exist_ok=True)
    return path


def test_a_graph_without_an_rl_model_is_refused_before_it_runs(server):
    graph = load()
    del next(node for node in graph.values() if node["class_type"] == "RLGApply")["inputs"]["rl_model"]
    with pytest.raises(RunFailed, match="rl_model"):
        server.run(graph)


def edited(scale, denoise, half=False):
    """Return the shipped graph with a second sampler, which starts from the base's picture by way of pixels.

    With `half` it paints the right half alone. Where `denoise` is 0 the picture saved went through the VAE alone.
    """
    graph = changed(load(), "RLGApply", scale=scale)
    sampler = graph["sampler"]
    first = {**sampler["inputs"], "model": ["base", 0]}
    graph["first_sampler"] = {"class_type": "KSampler", "inputs": first}
    graph["picture"] = {"class_type": "VAEDecode", "inputs": {"samples": ["first_sampler", 0], "vae": ["vae", 0]}}
    graph["encoded"] = {"class_type": "VAEEncode", "inputs": {"pixels": ["picture", 0], "vae": ["vae", 0]}}
    graph["all"] = {"class_type": "SolidMask", "inputs": {"value": 0.0, "width": 96, "height": 96}}
    graph["half"] = {"class_type": "SolidMask", "inputs": {"value": 1.0, "width": 48, "height": 96}}
    where = {"destination": ["all", 0], "source": ["half", 0], "x": 48, "y": 0, "operation": "add"}
    graph["mask"] = {"class_type": "MaskComposite", "inputs": where}
    graph["masked"] = {"class_type": "SetLatentNoiseMask", "inputs": {"samples": ["encoded", 0], "mask": ["mask", 0]}}
    sampler["inputs"] |= {"latent_image": ["masked" if half else "encoded", 0], "denoise": denoise, "seed": 8}
    if denoise == 0:
        graph["decode"]["inputs"]["samples"] = ["encoded", 0]
    return graph


def luma(picture, columns):
    """Mean brightness of some columns of RGB bytes, 96 x 96."""
    rows = np.frombuffer(picture, np.uint8).reshape(96, 96, 3)
    return float(rows[:, columns].mean())


def test_image_to_image(server):
    start, base, guided = (pixels(server, edited(scale, denoise)) for scale, denoise in ((0, 0), (0, 0.8), (3, 0.8)))
    assert len({start, base, guided}) == 3
    assert luma(guided, slice(None)) > luma(base, slice(None)) + 5


def test_inpainting_leaves_the_rest_alone(server):
    start, base, guided = (
        pixels(server, edited(scale, denoise, half=True)) for scale, denoise in ((0, 0), (0, 1), (3, 1))
    )
    kept, painted = slice(0, 40), slice(56, 96)
    for picture in (base, guided):
        assert luma(picture, kept) == pytest.approx(luma(start, kept), abs=0.5)
    assert luma(guided, painted) > luma(base, painted) + 5
