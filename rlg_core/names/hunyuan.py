"""Tencent's double- and single-stream transformers: HunyuanVideo, HunyuanVideo 1.5, HunyuanImage 2.1."""

from .cuts import qkv, same, whole
from .flux import DOUBLE, EMBEDDERS, ENDS, SINGLE
from .rule import Architecture, Block, Leaves

REFINER = {
    "self_attn.qkv": qkv("attn.to_q", "attn.to_k", "attn.to_v"),
    "self_attn.proj": whole("attn.to_out.0"),
    "mlp.0": whole("ff.net.0.proj"),
    "mlp.2": whole("ff.net.2"),
    **same("norm1", "norm2"),
    "adaLN_modulation.1": whole("norm_out.linear"),
}
ORIGINAL = {
    f"{stream}_{host}": whole(f"{stream}_{source}")
    for stream in ("img", "txt")
    for host, source in (
        ("attn.qkv", "attn_qkv"),
        ("attn.proj", "attn_proj"),
        ("mlp.0", "mlp.fc1"),
        ("mlp.2", "mlp.fc2"),
        ("mod.lin", "mod.linear"),
    )
}
"""The original names, which Tencent's own trainers write."""

BLOCKS = (
    Block("double_blocks.#", "transformer_blocks.#", DOUBLE),
    Block("single_blocks.#", "single_transformer_blocks.#", SINGLE),
    Block("double_blocks.#", "double_blocks.#", ORIGINAL),
    Block("single_blocks.#", "single_blocks.#", {"modulation.lin": whole("modulation.linear")}),
    Block("txt_in.individual_token_refiner.blocks.#", "context_embedder.token_refiner.refiner_blocks.#", REFINER),
)
MARKS = ("double_blocks.0.img_attn.qkv", "txt_in.individual_token_refiner.blocks.0.self_attn.qkv")


def _two_layers(host: str, source: str) -> Leaves:
    return {f"{host}.in_layer": whole(f"{source}.linear_1"), f"{host}.out_layer": whole(f"{source}.linear_2")}


TOP = {
    **ENDS,
    "img_in.proj": whole("x_embedder.proj"),
    "txt_in.input_embedder": whole("context_embedder.proj_in"),
    **_two_layers("txt_in.t_embedder", "context_embedder.time_text_embed.timestep_embedder"),
    **_two_layers("txt_in.c_embedder", "context_embedder.time_text_embed.text_embedder"),
}
GLYPHS = {
    "byt5_in.layernorm": whole("context_embedder_2.norm"),
    **{f"byt5_in.fc{i}": whole(f"context_embedder_2.linear_{i}") for i in (1, 2, 3)},
}
"""The second text encoder's embedder, for texts to be written."""

HUNYUAN_VIDEO = Architecture("HunyuanVideo", MARKS, BLOCKS, {**TOP, **EMBEDDERS})

HUNYUAN_VIDEO_15 = Architecture(
    "HunyuanVideo 1.5",
    (*MARKS, "cond_type_embedding"),
    BLOCKS,
    {
        **TOP,
        **GLYPHS,
        **_two_layers("time_in", "time_embed.timestep_embedder"),
        **_two_layers("time_r_in", "time_embed.timestep_embedder_r"),
        "vision_in.proj.0": whole("image_embedder.norm_in"),
        "vision_in.proj.1": whole("image_embedder.linear_1"),
        "vision_in.proj.3": whole("image_embedder.linear_2"),
        "vision_in.proj.4": whole("image_embedder.norm_out"),
        "cond_type_embedding": whole("cond_type_embed"),
    },
)

HUNYUAN_IMAGE = Architecture(
    "HunyuanImage 2.1",
    (*MARKS, "byt5_in.fc1"),
    BLOCKS,
    {
        **TOP,
        **GLYPHS,
        **_two_layers("time_in", "time_guidance_embed.timestep_embedder"),
        **_two_layers("time_r_in", "time_guidance_embed.timestep_embedder_r"),
        **_two_layers("guidance_in", "time_guidance_embed.guidance_embedder"),
    },
)
