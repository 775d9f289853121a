"""Black Forest Labs' double- and single-stream transformers, and those made of them: FLUX, Chroma, LongCat, FLUX.2."""

from .cuts import FIRST, REST, SECOND, THIRD, qkv, same, swapped, whole
from .rule import Architecture, Block

DOUBLE = {
    "img_attn.qkv": qkv("attn.to_q", "attn.to_k", "attn.to_v"),
    "txt_attn.qkv": qkv("attn.add_q_proj", "attn.add_k_proj", "attn.add_v_proj"),
    "img_attn.proj": whole("attn.to_out.0"),
    "txt_attn.proj": whole("attn.to_add_out"),
    "img_attn.norm.query_norm": whole("attn.norm_q"),
    "img_attn.norm.key_norm": whole("attn.norm_k"),
    "txt_attn.norm.query_norm": whole("attn.norm_added_q"),
    "txt_attn.norm.key_norm": whole("attn.norm_added_k"),
    "img_mlp.0": whole("ff.net.0.proj", "ff.linear_in"),
    "img_mlp.2": whole("ff.net.2", "ff.linear_out"),
    "txt_mlp.0": whole("ff_context.net.0.proj", "ff_context.linear_in"),
    "txt_mlp.2": whole("ff_context.net.2", "ff_context.linear_out"),
    "img_mod.lin": whole("norm1.linear"),
    "txt_mod.lin": whole("norm1_context.linear"),
}
SINGLE = {
    "linear1": {"attn.to_q": FIRST, "attn.to_k": SECOND, "attn.to_v": THIRD, "proj_mlp": REST},
    "linear2": whole("proj_out"),
    "norm.query_norm": whole("attn.norm_q"),
    "norm.key_norm": whole("attn.norm_k"),
    "modulation.lin": whole("norm.linear"),
}
EMBEDDERS = {
    f"{host}.{layer}": whole(f"time_text_embed.{source}.{linear}")
    for host, source in (
        ("time_in", "timestep_embedder"),
        ("vector_in", "text_embedder"),
        ("guidance_in", "guidance_embedder"),
    )
    for layer, linear in (("in_layer", "linear_1"), ("out_layer", "linear_2"))
}
ENDS = {"final_layer.linear": whole("proj_out"), "final_layer.adaLN_modulation.1": swapped("norm_out.linear")}
INPUTS = {"img_in": whole("x_embedder"), "txt_in": whole("context_embedder")}

FLUX = Architecture(
    "FLUX",
    ("double_blocks.0.img_attn.qkv", "single_blocks.0.linear1"),
    (
        Block("double_blocks.#", "transformer_blocks.#", DOUBLE),
        Block("single_blocks.#", "single_transformer_blocks.#", SINGLE),
    ),
    {**INPUTS, **EMBEDDERS, **ENDS},
)

LONGCAT = Architecture(
    "LongCat-Image",
    FLUX.marks,
    FLUX.blocks,
    {
        **INPUTS,
        **ENDS,
        "time_in.in_layer": whole("time_embed.timestep_embedder.linear_1"),
        "time_in.out_layer": whole("time_embed.timestep_embedder.linear_2"),
    },
    lacks=("vector_in.in_layer",),
)

GUIDANCE_LAYER = {"in_layer": whole("linear_1"), "out_layer": whole("linear_2")}
CHROMA = Architecture(
    "Chroma",
    (*FLUX.marks, "distilled_guidance_layer.in_proj"),
    (*FLUX.blocks, Block("distilled_guidance_layer.layers.#", "distilled_guidance_layer.layers.#", GUIDANCE_LAYER)),
    {**INPUTS, **ENDS, **same("distilled_guidance_layer.in_proj", "distilled_guidance_layer.out_proj")},
    unchanged=(r"distilled_guidance_layer\.norms\.\d+",),
)

FLUX2_SINGLE = {
    "linear1": whole("attn.to_qkv_mlp_proj"),
    "linear2": whole("attn.to_out"),
    "norm.query_norm": whole("attn.norm_q"),
    "norm.key_norm": whole("attn.norm_k"),
}

FLUX2_DOUBLE = {
    **DOUBLE,
    "img_mlp.0": whole("ff.linear_in"),
    "img_mlp.2": whole("ff.linear_out"),
    "txt_mlp.0": whole("ff_context.linear_in"),
    "txt_mlp.2": whole("ff_context.linear_out"),
}

FLUX2 = Architecture(
    "FLUX.2",
    ("double_blocks.0.img_attn.qkv", "double_stream_modulation_img.lin"),
    (
        Block("double_blocks.#", "transformer_blocks.#", FLUX2_DOUBLE),
        Block("single_blocks.#", "single_transformer_blocks.#", FLUX2_SINGLE),
    ),
    {
        **INPUTS,
        **ENDS,
        "time_in.in_layer": whole("time_guidance_embed.timestep_embedder.linear_1"),
        "time_in.out_layer": whole("time_guidance_embed.timestep_embedder.linear_2"),
        "guidance_in.in_layer": whole("time_guidance_embed.guidance_embedder.linear_1"),
        "guidance_in.out_layer": whole("time_guidance_embed.guidance_embedder.linear_2"),
        "double_stream_modulation_img.lin": whole("double_stream_modulation_img.linear"),
        "double_stream_modulation_txt.lin": whole("double_stream_modulation_txt.linear"),
        "single_stream_modulation.lin": whole("single_stream_modulation.linear"),
    },
)
