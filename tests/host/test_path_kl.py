"""The path KL of a trace, on a flow model and on one that predicts the noise."""

from __future__ import annotations

import pytest

from support import tiny
from support.guiding import guide, run_node
from support.sampling import Sampling, unet_sampling

SCALE = 3.0


@pytest.fixture(scope="module")
def flow(host):
    """Base, RL model and the settings of a run without CFG."""
    return *tiny.sd3_pair(host), Sampling(cfg=1.0, steps=5)


@pytest.fixture(scope="module")
def noise(host):
    weights = tiny.unet_weights(host)
    changed = {name: value * 1.05 if name.startswith("out.2") else value for name, value in weights.items()}
    base, rl = (host.comfy.sd.load_diffusion_model_state_dict(dict(w)) for w in (weights, changed))
    return base, rl, unet_sampling(cfg=1.0, scheduler="karras")


@pytest.mark.parametrize(
    ("kind", "sampler"), [("flow", "euler"), ("flow", "dpmpp_2m"), ("flow", "heun"), ("noise", "euler")]
)
def test_it_is_the_integral_over_the_log_ratio_of_noise_to_signal(host, request, kind, sampler):
    base, rl, settings = request.getfixturevalue(kind)
    kl = host.module("rlg_core.kl")
    settings.sampler = sampler
    watched, trace = run_node(host, "RLGTrace", guide(host, base, rl, SCALE))
    latent = settings.run(host, watched)
    sigmas = settings.sigmas(host, base).tolist()
    times = sigmas if kind == "flow" else [kl.flow_time(sigma) for sigma in sigmas]
    for entry, weight, time in zip(trace.entries, kl.path_weights(times), times):
        noise = SCALE * entry.difference * (entry.sigma / time)
        assert entry.path_kl == pytest.approx(weight * noise**2 * latent[0].numel(), rel=1e-4)
    assert len(trace.entries) == len(sigmas) - 1
