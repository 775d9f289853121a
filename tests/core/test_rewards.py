"""Rewards: values by definition, and networks loaded from tiny random models in the layouts their authors publish."""

from __future__ import annotations

import json
import math
import string
from pathlib import Path

import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from rlg_core.errors import RLGError
from rlg_core.pictures import to_picture, to_tensor
from rlg_core.rewards import KINDS, ScoreCache, batches
from rlg_core.rewards.clip import TOKENS, load_clip
from rlg_core.rewards.hps import hps
from rlg_core.rewards.image_reward import MEAN, STD, image_reward
from rlg_core.rewards.jpeg import compressibility, incompressibility
from rlg_core.rewards.ocr import TextReward, edit_distance, rapidocr_reader, text_score, wanted_text
from rlg_core.rewards.pixels import crop, pad, prepared

PROMPTS = ["a red circle", "two blue squares on a plain ground"]


def pictures(n: int = 2, height: int = 40, width: int = 56, seed: int = 0) -> torch.Tensor:
    return torch.rand(n, height, width, 3, generator=torch.Generator().manual_seed(seed))


# Tiny models in real layouts


def clip_tokenizer(folder: Path) -> int:
    """CLIP's byte-pair tokenizer without merges; returns the size of its vocabulary."""
    symbols = [*string.printable[:94], *(f"{c}</w>" for c in string.printable[:94]), "<|startoftext|>", "<|endoftext|>"]
    (folder / "vocab.json").write_text(json.dumps({symbol: k for k, symbol in enumerate(symbols)}), encoding="utf-8")
    (folder / "merges.txt").write_text("#version: 0.2\n", encoding="utf-8")
    return len(symbols)


def tiny_clip(vocabulary: int, vision_head: int = 80, activation: str = "quick_gelu") -> torch.nn.Module:
    from transformers import CLIPConfig, CLIPModel

    torch.manual_seed(0)
    common = {"num_hidden_layers": 2, "intermediate_size": 96, "hidden_act": activation}
    return CLIPModel(
        CLIPConfig(
            projection_dim=32,
            text_config={
                "hidden_size": 128,
                "num_attention_heads": 2,
                "vocab_size": vocabulary,
                "bos_token_id": vocabulary - 2,
                "eos_token_id": vocabulary - 1,
                **common,
            },
            vision_config={
                "hidden_size": vision_head * 2,
                "num_attention_heads": 2,
                "patch_size": 14,
                "image_size": 28,
                **common,
            },
        )
    ).eval()


@pytest.fixture
def clip_folder(tmp_path):
    model = tiny_clip(clip_tokenizer(tmp_path))
    model.save_pretrained(tmp_path)
    return tmp_path


def openclip_weights(clip: torch.nn.Module) -> dict[str, torch.Tensor]:
    """`clip`'s weights as OpenCLIP names and lays them out."""
    given = {name: value.detach().clone() for name, value in clip.state_dict().items()}
    out = {
        "visual.class_embedding": given["vision_model.embeddings.class_embedding"],
        "visual.positional_embedding": given["vision_model.embeddings.position_embedding.weight"],
        "visual.conv1.weight": given["vision_model.embeddings.patch_embedding.weight"],
        "visual.proj": given["visual_projection.weight"].T.contiguous(),
        "token_embedding.weight": given["text_model.embeddings.token_embedding.weight"],
        "positional_embedding": given["text_model.embeddings.position_embedding.weight"],
        "text_projection": given["text_projection.weight"].T.contiguous(),
        "logit_scale": given["logit_scale"],
        "attn_mask": torch.zeros(77, 77),
    }
    for kind in ("weight", "bias"):
        out |= {
            f"visual.ln_pre.{kind}": given[f"vision_model.pre_layrnorm.{kind}"],
            f"visual.ln_post.{kind}": given[f"vision_model.post_layernorm.{kind}"],
            f"ln_final.{kind}": given[f"text_model.final_layer_norm.{kind}"],
        }
        for tower, stem in (("vision_model", "visual.transformer"), ("text_model", "transformer")):
            for k in range(2):
                old, new = f"{tower}.encoder.layers.{k}", f"{stem}.resblocks.{k}"
                out |= {f"{new}.ln_{n}.{kind}": given[f"{old}.layer_norm{n}.{kind}"] for n in (1, 2)}
                out |= {
                    f"{new}.mlp.c_fc.{kind}": given[f"{old}.mlp.fc1.{kind}"],
                    f"{new}.mlp.c_proj.{kind}": given[f"{old}.mlp.fc2.{kind}"],
                    f"{new}.attn.out_proj.{kind}": given[f"{old}.self_attn.out_proj.{kind}"],
                    f"{new}.attn.in_proj_{kind}": torch.cat([given[f"{old}.self_attn.{c}_proj.{kind}"] for c in "qkv"]),
                }
    return out


def linear_stack(features: int, generator: torch.Generator) -> dict[str, torch.Tensor]:
    sizes = [features, 1024, 128, 64, 16, 1]
    return {
        f"layers.{n}.{kind}": torch.randn(*shape, generator=generator) / math.sqrt(inner)
        for n, inner, outer in zip((0, 2, 4, 6, 7), sizes, sizes[1:])
        for kind, shape in (("weight", (outer, inner)), ("bias", (outer,)))
    }


# JPEG


def test_jpeg_counts_the_file_in_kilobytes(tmp_path):
    picture = pictures(1, 64, 64)
    array = (picture[0] * 255).round().byte().numpy()
    Image.fromarray(array).save(tmp_path / "a.jpg", quality=95)
    size = (tmp_path / "a.jpg").stat().st_size / 1000
    assert incompressibility(picture, [""]).tolist() == pytest.approx([size])
    assert compressibility(picture, [""]).tolist() == pytest.approx([-size])
    assert incompressibility(torch.zeros(1, 64, 64, 3), [""]) < size


# Text


@pytest.mark.parametrize(
    ("a", "b", "distance"), [("", "abc", 3), ("kitten", "sitting", 3), ("abc", "abc", 0), ("ab", "ba", 2)]
)
def test_edit_distance(a, b, distance):
    assert edit_distance(a, b) == edit_distance(b, a) == distance


@pytest.mark.parametrize(
    ("read", "wanted", "score"),
    [
        ("Open", "open", 1.0),
        ("WE ARE OPEN NOW", "open", 1.0),
        ("opan", "open", 0.75),
        ("", "open", 0.0),
        ("qqqqqqqqqq", "open", 0.0),
    ],
)
def test_text_score(read, wanted, score):
    assert text_score(read, wanted) == score


def test_wanted_text_is_the_quoted_one():
    assert wanted_text('a sign "New York" and "b"') == "New York"
    with pytest.raises(RLGError, match="double quotes"):
        wanted_text("a sign that says open")


def test_real_ocr_reads_a_word():
    from PIL import ImageDraw, ImageFont

    image = Image.new("RGB", (480, 160), "white")
    ImageDraw.Draw(image).text((40, 40), "GUIDANCE", fill="black", font=ImageFont.load_default(size=72))
    picture = to_tensor(image)[None]
    reward = TextReward(rapidocr_reader())
    assert reward(picture, ['a sign "Guidance"']).item() == 1.0
    assert reward(picture, ['a sign "zebra"']).item() < 0.5


# Pictures as networks want them


@pytest.mark.parametrize(
    "size", [(60, 44), (64, 48), (48, 64)]
)  # 28 * 64 / 48 = 37.3 and 28 * 60 / 44 = 38.2, rounded down
def test_pixels_are_those_of_the_transformers_processor(size):
    from transformers import CLIPImageProcessor

    picture = to_tensor(Image.effect_mandelbrot(size, (-2, -1.2, 1, 1.2), 40).convert("RGB"))[None]
    processor = CLIPImageProcessor(size={"shortest_edge": 28}, crop_size=28)
    expected = processor(to_picture(picture[0]), return_tensors="pt")["pixel_values"]
    assert (prepared(picture, 28, crop) - expected).abs().max() < 0.02  # a level of 8 bits


def test_pad_keeps_the_whole_picture():
    out = pad(torch.full((1, 3, 20, 40), 255, dtype=torch.uint8), 28)
    assert out.shape == (1, 3, 28, 28)
    assert out[..., 7:21, :].min() == 255 and out[..., :7, :].max() == 0 and out[..., 21:, :].max() == 0


# CLIP and its kin


@torch.no_grad()
def reference_clip(model, folder, images, prompts):
    """`transformers`' own forward: (image embeddings, logits of each picture for its prompt)."""
    from transformers import CLIPTokenizer

    tokens = CLIPTokenizer.from_pretrained(folder)(
        prompts, padding=True, truncation=True, max_length=TOKENS, return_tensors="pt"
    )
    out = model(
        input_ids=tokens["input_ids"], attention_mask=tokens["attention_mask"], pixel_values=prepared(images, 28, crop)
    )
    return out.image_embeds, out.logits_per_image.diagonal()


def test_clip_score_and_pickscore(clip_folder):
    _, logits = reference_clip(load_clip(clip_folder), clip_folder, pictures(), PROMPTS)
    scale = load_clip(clip_folder).logit_scale.exp()
    assert torch.allclose(KINDS["PickScore"].load(clip_folder, clip_folder)(pictures(), PROMPTS), logits, atol=1e-5)
    assert torch.allclose(
        KINDS["CLIP score"].load(clip_folder, clip_folder)(pictures(), PROMPTS), 100 * logits / scale, atol=1e-4
    )
    assert logits[0] != logits[1]


def test_long_prompts_are_cut_and_equal_ones_share(clip_folder):
    reward = KINDS["CLIP score"].load(clip_folder, clip_folder)
    same = pictures(1).expand(3, -1, -1, -1)
    scores = reward(same, ["a" * 300, "b", "a" * 300])
    assert scores[0] == scores[2] != scores[1]


def test_aesthetic_head_on_normalised_features(clip_folder):
    head = linear_stack(32, torch.Generator().manual_seed(1))
    torch.save(head, clip_folder / "sac+logos+ava1-l14-linearMSE.pth")
    features, _ = reference_clip(load_clip(clip_folder), clip_folder, pictures(), PROMPTS)
    for n in (0, 2, 4, 6, 7):
        features = features @ head[f"layers.{n}.weight"].T + head[f"layers.{n}.bias"]
    scores = KINDS["LAION aesthetic"].load(clip_folder, clip_folder)(pictures(), ["", ""])
    assert torch.allclose(scores, features[:, 0], atol=1e-5)


def test_a_clip_with_weights_missing_is_refused(clip_folder):
    from safetensors.torch import load_file

    weights = load_file(clip_folder / "model.safetensors")
    del weights["visual_projection.weight"]
    save_file(weights, clip_folder / "model.safetensors", {"format": "pt"})
    with pytest.raises(RLGError, match=r"1 weights of the CLIP model are missing, first visual_projection.weight"):
        KINDS["CLIP score"].load(clip_folder, clip_folder)


def test_a_missing_file_is_named(tmp_path):
    (tmp_path / "readme.txt").touch()
    with pytest.raises(RLGError, match=r"expected a file named config.json, found readme.txt"):
        KINDS["PickScore"].load(tmp_path, tmp_path)


def test_hps_reads_the_openclip_file(tmp_path):
    model = tiny_clip(clip_tokenizer(tmp_path), activation="gelu")
    torch.save({"epoch": 1, "state_dict": openclip_weights(model)}, tmp_path / "HPS_v2.1_compressed.pt")
    square = pictures(2, 40, 40)
    _, logits = reference_clip(model, tmp_path, square, PROMPTS)
    assert torch.allclose(hps(tmp_path, tmp_path)(square, PROMPTS), logits / model.logit_scale.exp(), atol=1e-6)


def test_hps_refuses_another_file(tmp_path):
    weights = openclip_weights(tiny_clip(clip_tokenizer(tmp_path), activation="gelu"))
    weights["visual.ln_post.weight"] = torch.zeros(7)
    torch.save(weights, tmp_path / "HPS_v2.1_compressed.pt")
    with pytest.raises(RLGError, match=r"1 tensors do not fit.*post_layernorm.weight.*expected \(160,\), found \(7,\)"):
        hps(tmp_path, tmp_path)


# ImageReward

BLIP_TO_PUBLISHED = (
    ("encoder.layers.", "blocks."),
    (".layer_norm", ".norm"),
    (".self_attn.qkv", ".attn.qkv"),
    (".self_attn.projection", ".attn.proj"),
    ("embeddings.class_embedding", "cls_token"),
    ("embeddings.position_embedding", "pos_embed"),
    ("embeddings.patch_embedding", "patch_embed.proj"),
    ("post_layernorm", "norm"),
)


@pytest.fixture
def image_reward_folder(tmp_path):
    """`ImageReward.pt`, `med_config.json` and `vocab.txt` of a tiny BLIP; also its parts."""
    from transformers import BlipTextConfig, BlipVisionConfig, BlipVisionModel
    from transformers.models.blip.modeling_blip_text import BlipTextModel

    words = [
        "[PAD]",
        "[UNK]",
        "[CLS]",
        "[SEP]",
        "[MASK]",
        *string.ascii_lowercase,
        *(f"##{c}" for c in string.ascii_lowercase),
    ]
    (tmp_path / "vocab.txt").write_text("\n".join(words), encoding="utf-8")
    sizes = {"num_attention_heads": 2, "intermediate_size": 96, "num_hidden_layers": 2, "layer_norm_eps": 1e-12}
    (tmp_path / "med_config.json").write_text(json.dumps({"architectures": ["BertModel"], **sizes}), encoding="utf-8")
    torch.manual_seed(0)
    vision = BlipVisionModel(
        BlipVisionConfig(
            hidden_size=128,
            num_attention_heads=2,
            intermediate_size=96,
            num_hidden_layers=2,
            image_size=32,
            layer_norm_eps=1e-6,
            initializer_range=0.1,
        )
    )
    text = BlipTextModel(
        BlipTextConfig(
            vocab_size=len(words) + 2,
            hidden_size=64,
            encoder_hidden_size=128,
            max_position_embeddings=64,
            initializer_range=0.2,
            is_decoder=True,
            **sizes,
        ),
        add_pooling_layer=False,
    )
    head = linear_stack(64, torch.Generator().manual_seed(1))
    torch.save(published(vision, text, head), tmp_path / "ImageReward.pt")
    return tmp_path, vision.eval(), text.eval(), head


def published(vision, text, head):
    weights = {f"mlp.{name}": value for name, value in head.items()}
    for name, value in vision.state_dict().items():
        for ours, theirs in BLIP_TO_PUBLISHED:
            name = name.replace(ours, theirs)
        weights[f"blip.visual_encoder.{name}"] = value
    weights |= {f"blip.text_encoder.{name}": value for name, value in text.state_dict().items()}
    weights["blip.text_encoder.embeddings.position_ids"] = torch.arange(64)[None]
    return weights


@torch.no_grad()
def test_image_reward(image_reward_folder):
    from transformers import BertTokenizer

    folder, vision, text, head = image_reward_folder
    seen = vision(pixel_values=prepared(pictures(), 32, crop)).last_hidden_state
    tokens = BertTokenizer.from_pretrained(folder)(
        PROMPTS, padding="max_length", truncation=True, max_length=35, return_tensors="pt"
    )
    features = text(
        input_ids=tokens["input_ids"],
        attention_mask=tokens["attention_mask"],
        encoder_hidden_states=seen,
        encoder_attention_mask=torch.ones(seen.shape[:2], dtype=torch.long),
    ).last_hidden_state[:, 0]
    for n in (0, 2, 4, 6, 7):
        features = features @ head[f"layers.{n}.weight"].T + head[f"layers.{n}.bias"]
    scores = image_reward(folder, folder)(pictures(), PROMPTS)
    assert torch.allclose(scores, (features[:, 0] - MEAN) / STD, atol=1e-5)
    assert scores[0] != scores[1]


def test_image_reward_needs_the_vocabulary(image_reward_folder):
    folder = image_reward_folder[0]
    (folder / "vocab.txt").unlink()
    with pytest.raises(RLGError, match=r"expected a file named vocab.txt"):
        image_reward(folder, folder)


# Cache and batches


def counting(calls):
    def score(images, prompts):
        calls.append(list(prompts))
        return images.mean(dim=(1, 2, 3)) + torch.tensor([float(len(prompt)) for prompt in prompts])

    return score


def test_no_picture_is_scored_twice():
    calls, cache, shown = [], ScoreCache(), pictures(3)
    repeated = shown[[0, 1, 0]]
    first = cache(counting(calls), repeated, ["a", "a", "a"])
    assert [len(c) for c in calls] == [2] and first[0] == first[2] != first[1]
    assert cache(counting(calls), shown, ["a", "a", "a"])[:2] == first[:2] and [len(c) for c in calls] == [2, 1]
    assert cache(counting(calls), shown[:1], ["ab"])[0] == pytest.approx(first[0] + 1) and len(calls) == 3


def test_the_cache_forgets_the_oldest():
    calls, cache, shown = [], ScoreCache(limit=2), pictures(3)
    for k in (0, 1, 2, 0):
        cache(counting(calls), shown[k : k + 1], ["a"])
    assert len(calls) == 4 and len(cache.scores) == 2


def test_batches_of_the_asked_size():
    calls = []
    scores = batches(counting(calls), 2)(pictures(5), list("abcde"))
    assert [len(c) for c in calls] == [2, 2, 1] and len(scores) == 5
