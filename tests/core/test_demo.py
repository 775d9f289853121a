"""The demo's scenes, judge, codec and RL algorithm, and what its shipped files promise."""

import math

import pytest
import torch
import torch.nn.functional as F

pytest.importorskip("diffusers")
pytest.importorskip("PIL")

from demo import codec, flow_grpo, model, nft, rewards, scenes, text
from rlg_core.errors import RLGError
from rlg_core.rewards import scenes as judge
from rlg_core.rewards.scenes import GROUNDS, Prompt, all_prompts, parse


@pytest.fixture(scope="module")
def drawn():
    prompts = all_prompts(GROUNDS)
    return prompts, scenes.latents(prompts, torch.Generator().manual_seed(0))


def test_captions_survive_parsing():
    for prompt in all_prompts((None, *GROUNDS)):
        assert parse(str(prompt)) == prompt
    with pytest.raises(RLGError, match="four pink stars"):
        parse("four pink stars")


def test_judge_reads_what_scenes_draw(drawn):
    prompts, latents = drawn
    right = rewards.correctness(codec.decode(latents), prompts).tolist()
    assert sum(right) / len(right) > 0.95


@pytest.mark.parametrize("change", [{"count": 3}, {"colour": "blue"}, {"shape": "triangle"}])
def test_judge_refuses_other_captions(change):
    asked = Prompt(2, "red", "circle")
    found = judge.find(codec.decode(scenes.latents([asked], torch.Generator().manual_seed(0))).movedim(1, -1))[0]
    other = Prompt(**{"count": 2, "colour": "red", "shape": "circle"} | change)
    assert judge.correct(found, asked) and not judge.correct(found, other)
    assert judge.score(found, other) < judge.score(found, asked) - 0.4


def test_decoder_weights_compute_decode(drawn):
    latents = torch.cat([drawn[1][:2], torch.randn(2, 16, 12, 12, generator=torch.Generator().manual_seed(1))])
    assert torch.allclose(run_decoder(codec.decoder_weights(), latents).clamp(0, 1), codec.decode(latents), atol=2e-5)


def run_decoder(weights, latents):
    """The stock TAESD decoder, layer by layer."""
    x = 3 * torch.tanh(latents / 3)
    x = F.conv2d(x, weights["1.weight"], weights["1.bias"], padding=1).relu()
    for blocks, upsampled in (((3, 4, 5), 7), ((8, 9, 10), 12), ((13, 14, 15), 17)):
        for name in blocks:
            x = codec.block(weights, str(name), x)
        x = F.conv2d(F.interpolate(x, scale_factor=2), weights[f"{upsampled}.weight"], padding=1)
    return F.conv2d(codec.block(weights, "18", x), weights["19.weight"], weights["19.bias"], padding=1)


def test_text_file_is_what_transformers_clip_computes(tmp_path):
    transformers = pytest.importorskip("transformers")
    text.write(tmp_path / "clip.pt")
    assert (tmp_path / "clip.pt").stat().st_size < 500_000
    sizes = {"vocab_size": text.VOCABULARY, "hidden_size": text.DIM, "num_hidden_layers": text.LAYERS}
    config = transformers.CLIPTextConfig(
        **sizes,
        intermediate_size=text.HIDDEN,
        num_attention_heads=12,
        max_position_embeddings=text.LENGTH,
        eos_token_id=text.END,
    )
    clip = transformers.CLIPTextModel(config)
    state = {
        k: v.float()
        for k, v in torch.load(tmp_path / "clip.pt", weights_only=True).items()
        if k != "text_projection.weight"
    }
    own = {k if k in clip.state_dict() else k.removeprefix("text_model."): v for k, v in state.items()}
    clip.load_state_dict(own)
    captions = ["", "two red triangles on checkered ground"]
    with torch.no_grad():
        out = clip(torch.tensor([text.token_ids(c) for c in captions]), output_hidden_states=True)
    context, pooled = text.encode(captions)
    assert torch.allclose(out.hidden_states[-2], context, atol=1e-4)
    assert torch.allclose(out.pooler_output, pooled, atol=1e-3)


def test_brightness_is_mean_luma():
    grey = torch.full((1, 3, 8, 8), 0.25)
    assert rewards.brightness(grey, []).item() == pytest.approx(0.25, abs=1e-6)


def test_jpeg_prefers_plain_pictures():
    noisy = torch.rand(1, 3, 96, 96, generator=torch.Generator().manual_seed(0))
    assert rewards.jpeg(torch.zeros(1, 3, 96, 96), [])[0] > rewards.jpeg(noisy, [])[0] + 5


def test_stochastic_steps_keep_the_flows_marginals():
    """Data N(0, 1): x_t has variance (1 - t)^2 + t^2, and v = E[noise - data | x] is linear in x."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(20000, 1, 1, 1, generator=generator)
    levels = model.sigmas(200)
    for sigma, following in zip(levels, levels[1:]):
        v = (2 * sigma - 1) / ((1 - sigma) ** 2 + sigma**2) * x
        mean, std = flow_grpo.sde_step(x, v, sigma, following, levels[1])
        x = mean + std * torch.randn(x.shape, generator=generator)
    assert x.std().item() == pytest.approx(1.0, abs=0.05)


def test_advantages_compare_within_groups():
    scores = torch.tensor([1.0, 3.0, 10.0, 12.0])
    assert flow_grpo.group_spread(scores, 2) == pytest.approx(math.sqrt(2))
    assert flow_grpo.advantages(scores, 2, scale=2.0).tolist() == [-0.5, 0.5, -0.5, 0.5]


def test_policy_gradient_moves_towards_the_better_half():
    """One update on a model of one bias raises the density of the steps with positive advantage; KL starts at zero."""
    settings = flow_grpo.Settings("brightness", beta=0.0, steps=4)
    bias = torch.zeros(1, requires_grad=True)

    def policy(x, **_):
        return ((bias + 0 * x),)

    levels = model.sigmas(4)
    x = torch.randn(2, 16, 12, 12, generator=torch.Generator().manual_seed(0))
    mean, std = flow_grpo.sde_step(x, 0 * x, levels[1], levels[2], levels[1])
    following = mean + std * torch.tensor([1.0, -1.0]).view(2, 1, 1, 1)
    states = torch.stack([x, x, following])
    log_probs = torch.stack([torch.zeros(2), flow_grpo.log_density(following, mean, std)])
    batch = flow_grpo.Rollout(states, log_probs, (None, None), [], torch.zeros(2), 0.0)
    loss, kl = flow_grpo.step_loss(policy, lambda x, *_: 0 * x, batch, 1, torch.tensor([1.0, -1.0]), settings)
    loss.backward()
    assert kl.item() == 0.0
    assert bias.grad.item() > 0  # dt is negative: a lower velocity makes the higher next state likelier


@pytest.mark.parametrize(("optimality", "sign"), [(1.0, -1), (0.5, 0), (0.0, 1)])
def test_nft_moves_towards_good_pictures_and_away_from_bad_ones(optimality, sign):
    """At v = old = 0 and target 1 the gradient's sign says where v goes.

    Channels that scenes leave unused have no gradient.
    """
    v = torch.zeros(2, 16, 3, 3, requires_grad=True)
    nft.nft_loss(v, torch.zeros_like(v), torch.ones_like(v), torch.full((2,), optimality), 1.0).backward()
    used, unused = v.grad[:, : scenes.USED_CHANNELS], v.grad[:, scenes.USED_CHANNELS :]
    assert (used.sign() == sign).all() and not unused.any()


def test_hand_set_weights_are_kept_in_eight_bits():
    kinds = {codec.compact(weight).dtype for weight in codec.decoder_weights().values()}
    assert kinds == {torch.float8_e4m3fn}
    assert codec.compact(torch.tensor([0.3])).dtype == torch.float16
