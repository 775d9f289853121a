"""Rewards on the host: its folders, its memory management, and the nodes around them."""

from __future__ import annotations

import io as bytes_io
from pathlib import Path

import pytest
import torch
from PIL import Image

from support import tiny
from support.guiding import guide, run_node, stock_node
from support.sampling import conditioning

HOST_CLIP_VOCABULARY = 49408


@pytest.fixture
def reward_folder(host, tmp_path, monkeypatch) -> Path:
    names = host.folder_paths.folder_names_and_paths
    assert any(Path(path).name == "rlg_rewards" for path in names["rlg_rewards"][0]), "registered with the host"
    monkeypatch.setitem(names, "rlg_rewards", ([str(tmp_path)], set()))
    return tmp_path


def tiny_pickscore(folder: Path) -> torch.nn.Module:
    """PickScore's layout: weights and config, and no tokenizer (the host's serves)."""
    from transformers import CLIPConfig, CLIPModel

    torch.manual_seed(0)
    common = {"num_hidden_layers": 1, "intermediate_size": 32, "num_attention_heads": 1}
    model = CLIPModel(
        CLIPConfig(
            projection_dim=16,
            text_config={"hidden_size": 16, "vocab_size": HOST_CLIP_VOCABULARY, "eos_token_id": 49407, **common},
            vision_config={"hidden_size": 16, "patch_size": 14, "image_size": 28, **common},
        )
    ).eval()
    model.save_pretrained(folder)
    return model


def pictures(n=3, seed=0):
    return torch.rand(n, 40, 40, 3, generator=torch.Generator().manual_seed(seed))


def kilobytes(picture):
    buffer = bytes_io.BytesIO()
    Image.fromarray((picture * 255).round().byte().numpy()).save(buffer, "JPEG", quality=95)
    return len(buffer.getvalue()) / 1000


def test_jpeg_scores_and_annotations(host):
    reward = run_node(host, "RLGRewardLoader", "JPEG compressibility", "none")[0]
    scores, mean, annotated = run_node(host, "RLGReward", pictures(), reward, "")
    assert scores == pytest.approx([-kilobytes(p) for p in pictures()]) and mean == pytest.approx(sum(scores) / 3)
    assert annotated.shape[0] == 3 and annotated.shape[1] > 40 and (annotated[:, :40] - pictures()).abs().max() < 0.01


@torch.no_grad()
def test_a_network_is_loaded_and_counted_by_the_host(host, reward_folder):
    (reward_folder / "pick").mkdir()
    model = tiny_pickscore(reward_folder / "pick")
    node = host.classes["RLGRewardLoader"]
    assert node.define_schema().inputs[1].options == ["none", "pick"]
    assert node.validate_inputs(folder="pick") is True and "no folder" in node.validate_inputs(folder="away")
    reward = run_node(host, "RLGRewardLoader", "PickScore", "pick")[0]
    scores = run_node(host, "RLGReward", pictures(), reward, "a red circle")[0]
    assert any(loaded.model is reward.patcher for loaded in host.comfy.model_management.current_loaded_models)
    assert reward.patcher.model_size() >= sum(p.numel() for p in model.parameters()) * 4

    from transformers import CLIPImageProcessor, CLIPTokenizer

    tokenizer = CLIPTokenizer.from_pretrained(Path(host.comfy.sd1_clip.__file__).parent / "sd1_tokenizer")
    pixels = CLIPImageProcessor(size={"shortest_edge": 28}, crop_size=28)(
        [Image.fromarray((p * 255).round().byte().numpy()) for p in pictures()], return_tensors="pt"
    )["pixel_values"]
    expected = model(**tokenizer(["a red circle"], return_tensors="pt"), pixel_values=pixels).logits_per_image[:, 0]
    assert scores == pytest.approx(expected.tolist(), abs=1e-3) and len(set(scores)) == 3


def test_known_pictures_are_not_scored_again(host, reward_folder):
    (reward_folder / "pick").mkdir()
    tiny_pickscore(reward_folder / "pick")
    reward = run_node(host, "RLGRewardLoader", "PickScore", "pick")[0]
    calls = []
    hook = reward.network.register_forward_pre_hook(lambda module, args: calls.append(len(args[0])))
    first = reward.scores(pictures(2), ["a", "a"])
    assert reward.scores(pictures(3)[[1, 0, 2]], ["a", "a", "a"])[:2] == first[::-1]
    reward.scores(pictures(1), ["b"])
    hook.remove()
    assert calls == [2, 1, 1]


def test_a_reward_without_its_folder_says_so(host, reward_folder):
    with pytest.raises(ValueError, match=r"needs a model folder, and 'none' is none in"):
        run_node(host, "RLGRewardLoader", "PickScore", "none")


def test_rewards_that_need_no_model(host):
    reward = run_node(host, "RLGRewardLoader", "brightness (demo)", "none")[0]
    grey = torch.full((1, 96, 96, 3), 0.25)
    assert run_node(host, "RLGReward", grey, reward, "one red circle")[1] == pytest.approx(0.25, abs=1e-4)
    judge = run_node(host, "RLGRewardLoader", "scene judge (demo)", "none")[0]
    with pytest.raises(ValueError, match="The scene judge knows captions such as"):
        run_node(host, "RLGReward", grey, judge, "a cat")
    scene = grey.clone()
    scene[:, 30:60, 30:60] = torch.tensor([0.86, 0.15, 0.17])
    right, wrong = (
        run_node(host, "RLGReward", scene, judge, prompt)[1] for prompt in ("one red square", "three blue circles")
    )
    assert right > 0.9 > 0.5 > wrong


def test_pick_best(host):
    images = pictures(4)
    best, index = run_node(host, "RLGPickBest", [images[:1], images[1:]], [0.1, 0.4, 0.3, 0.2], [2])
    assert index == [1, 2] and torch.equal(best, images[1:3])
    with pytest.raises(ValueError, match="scores has 1 values for 4 pictures"):
        run_node(host, "RLGPickBest", [images], [0.1], [1])


# The implicit reward, against diffusers and PEFT

DRAWS, SEED = 5, 7


@pytest.fixture(scope="module")
def sd3(host):
    return tiny.sd3_adapted(), *tiny.sd3_pair(host)


def discrete(host, model, kind):
    """`model` taken for one that predicts noise or v on the discrete schedule of SD1.5."""
    return stock_node(host, "ModelSamplingDiscrete", model=model, sampling=kind, zsnr=False)


def latents(n=3):
    return torch.randn(n, 16, 8, 8, generator=torch.Generator().manual_seed(1))


PREDICTIONS = {
    "flow": (lambda x, s: x, lambda out, x, s: out, lambda clean, n, s: (1 - s) * clean + s * n),
    "eps": (lambda x, s: x / (1 + s**2) ** 0.5, lambda out, x, s: out, lambda clean, n, s: clean + s * n),
    "v_prediction": (
        lambda x, s: x / (1 + s**2) ** 0.5,
        lambda out, x, s: (x * s / (s**2 + 1)) + out / (s**2 + 1) ** 0.5,
        lambda clean, n, s: clean + s * n,
    ),
}
"""(x, sigma) -> the network's input; its output -> the velocity (x - denoised) / sigma; a clean latent -> x."""


@torch.no_grad()
def reference(host, adapted, model, kind, drawn):
    """[draws, pictures] from the definition, with the two networks of PEFT."""
    given, velocity, noised = PREDICTIONS[kind]
    sampling, (text, extra) = model.get_model_object("model_sampling"), conditioning(11)[0]
    clean = model.model.process_latent_in(latents())
    rows = []
    for percent, noise in zip(drawn.percents, drawn.noise):
        sigma = torch.tensor(float(sampling.percent_to_sigma(float(percent))))
        x = noised(clean, noise, sigma)
        settings = {
            "hidden_states": given(x, sigma),
            "timestep": sampling.timestep(sigma).float().repeat(3),
            "encoder_hidden_states": text.expand(3, -1, -1),
            "pooled_projections": extra["pooled_output"].expand(3, -1),
            "return_dict": False,
        }
        rl = velocity(adapted(**settings)[0], x, sigma)
        with adapted.disable_adapter():
            base = velocity(adapted(**settings)[0], x, sigma)
        true = (x - clean) / sigma
        rows.append(((base - true) ** 2).flatten(1).mean(1) - ((rl - true) ** 2).flatten(1).mean(1))
    return torch.stack(rows)


def implicit_reward(host, model, rl_model, items, draws=DRAWS, **settings):
    """(scores, standard errors) of some latents by the node."""
    latent = {"samples": items}
    return run_node(host, "RLGImplicitReward", model, rl_model, conditioning(11), latent, draws, SEED, **settings)


@pytest.mark.parametrize("kind", list(PREDICTIONS))
def test_implicit_reward_by_definition(host, sd3, kind):
    adapted, model, rl_model = sd3
    if kind != "flow":
        model, rl_model = discrete(host, model, kind), discrete(host, rl_model, kind)
    drawn = host.module("nodes.host.scores.implicit_reward").Draws.of(DRAWS, SEED, (16, 8, 8))
    expected = reference(host, adapted, model, kind, drawn)
    scores, errors = implicit_reward(host, model, rl_model, latents())
    assert scores == pytest.approx(expected.mean(0).tolist(), rel=1e-2, abs=1e-5)
    assert errors == pytest.approx((expected.std(0) / DRAWS**0.5).tolist(), rel=1e-2, abs=1e-5)
    assert max(scores) - min(scores) > 3e-4, "pictures differ"
    levels = model.get_model_object("model_sampling")
    sigmas = torch.tensor([float(levels.percent_to_sigma(float(percent))) for percent in drawn.percents])
    weights = (1 - sigmas) ** 2 if kind == "flow" else torch.ones(DRAWS)
    of_noise = implicit_reward(host, model, rl_model, latents(), error="noise")[0]
    assert of_noise == pytest.approx((weights[:, None] * expected).mean(0).tolist(), rel=1e-2, abs=1e-5)


def test_implicit_reward_does_not_depend_on_the_company(host, sd3):
    _, model, rl_model = sd3
    together = implicit_reward(host, model, rl_model, latents(), 3)[0]
    alone = implicit_reward(host, model, rl_model, latents()[1:2], 3)[0]
    assert alone == pytest.approx(together[1:2], abs=1e-5)


def test_implicit_reward_of_an_identical_pair_and_of_a_guided_model(host, sd3):
    _, model, rl_model = sd3
    assert implicit_reward(host, model, model.clone(), latents(), 2)[0] == [0.0, 0.0, 0.0]
    with pytest.raises(ValueError, match="from before the RLG nodes"):
        implicit_reward(host, guide(host, model, rl_model, 1.5), rl_model, latents(), 2)


def test_a_reward_is_read_again_where_its_files_changed(host, tmp_path, monkeypatch):
    loader = host.classes["RLGRewardLoader"]
    monkeypatch.setattr(host.folder_paths, "get_folder_paths", lambda _: [str(tmp_path)])
    (tmp_path / "head").mkdir()
    (tmp_path / "head" / "model.safetensors").write_bytes(b"first")
    before = loader.fingerprint_inputs(reward="PickScore", folder="head")
    assert (
        before
        == loader.fingerprint_inputs(reward="PickScore", folder="head")
        != loader.fingerprint_inputs(reward="x", folder="none")
    )
    (tmp_path / "head" / "model.safetensors").write_bytes(b"another")
    assert loader.fingerprint_inputs(reward="PickScore", folder="head") != before


def test_demo_models_are_offered_where_the_demo_is(host):
    demo = Path(host.pack.__file__).parent / "demo"
    assert ("rlg-demo-base.safetensors" in host.folder_paths.get_filename_list("diffusion_models")) == (
        demo / "models"
    ).is_dir()
