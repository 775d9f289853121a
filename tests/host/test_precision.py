"""Two files of one model in two precisions: what one was rounded to is no change that the RL model makes."""

from __future__ import annotations

import pytest
import torch
from safetensors.torch import save_file

from support import tiny
from support.guiding import guide, run_node
from support.quantised import rl_version
from support.sampling import Sampling
from support.tensors import rms

DTYPES = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}
MIXED = [(ours, theirs) for ours in DTYPES for theirs in DTYPES if ours != theirs]
NAMES = "diffusion_models/base.safetensors", "diffusion_models/rl.safetensors"

pytestmark = pytest.mark.usefixtures("inference_mode")


@pytest.fixture(scope="module")
def weights():
    """In diffusers' layout, whose name for the buffer is another one."""
    return tiny.sd3_transformer().state_dict()


@pytest.fixture(scope="module")
def in_host_layout(host, weights):
    return tiny.weights_of(tiny.load_weights(host, weights))


@pytest.fixture
def write(host, tmp_path):
    """Writes base and RL version in a dtype each."""
    host.folder_paths.add_model_folder_path("diffusion_models", str(tmp_path), is_default=True)

    def written(base, ours, rl, theirs):
        for name, own, dtype in zip(NAMES, (base, rl), (ours, theirs)):
            path = tmp_path / name.partition("/")[2]
            save_file({key: value.to(DTYPES[dtype]).contiguous() for key, value in own.items()}, path)
        return tmp_path

    return written


def low_rank(host):
    model, rl_model, *_, report = run_node(host, "RLGCheckpointPairLoader", *NAMES, "default", "low-rank", 384)
    return model, rl_model, report


@pytest.mark.parametrize(("ours", "theirs"), MIXED)
def test_a_pair_in_two_precisions_becomes_one_model(host, weights, in_host_layout, write, ours, theirs):
    folder, settings = write(weights, ours, rl_version(in_host_layout), theirs), Sampling(steps=2)
    model, rl_model, _ = low_rank(host)
    base, rl = (
        host.comfy.sd.load_diffusion_model(str(folder / name)) for name in ("base.safetensors", "rl.safetensors")
    )
    expected = settings.run(host, rl)
    # the table of positions stays the base's
    error = rms(settings.run(host, guide(host, model, rl_model, 1.0)) - expected)
    assert error < 0.05 * rms(expected - settings.run(host, base))


@pytest.mark.parametrize(
    ("ours", "theirs", "change"), [("fp32", "fp32", 1.001), ("fp16", "fp32", 1.005), ("bf16", "fp32", 1.02)]
)
def test_a_change_beyond_rounding_is_refused(host, in_host_layout, write, ours, theirs, change):
    rl = rl_version(in_host_layout)
    rl["pos_embed"] = rl["pos_embed"] * change
    write(in_host_layout, ours, rl, theirs)
    with pytest.raises(
        ValueError, match=r"changes buffers, which no adapter can hold: pos_embed\. Use both checkpoints\.$"
    ):
        low_rank(host)


def test_models_of_unknown_files_are_refused_with_a_way_out(host, in_host_layout):
    rounded = {name: value.bfloat16() for name, value in rl_version(in_host_layout).items()}
    models = tiny.load_weights(host, in_host_layout), tiny.load_weights(host, rounded)
    with pytest.raises(ValueError, match="only differ in precision, load them with Load RLG Checkpoint Pair"):
        run_node(host, "RLGExtractAdapter", *models, 4, 1.0, "extracted")
