"""Transformers with one stream of tokens (Lumina2, Z-Image, Wan, PixArt), and Qwen-Image and AuraFlow."""

from .cuts import kv, qkv, same, swapped, whole
from .rule import Architecture, Block

LUMINA_PARTS = ("layers", "noise_refiner", "context_refiner")

LUMINA_BLOCK = {
    "attention.qkv": qkv("attn.to_q", "attn.to_k", "attn.to_v"),
    "attention.out": whole("attn.to_out.0"),
    "attention.q_norm": whole("attn.norm_q"),
    "attention.k_norm": whole("attn.norm_k"),
    "feed_forward.w1": whole("feed_forward.linear_1"),
    "feed_forward.w2": whole("feed_forward.linear_2"),
    "feed_forward.w3": whole("feed_forward.linear_3"),
    "adaLN_modulation.1": whole("norm1.linear"),
    "attention_norm1": whole("norm1.norm", "norm1"),  # the context refiner has no modulation around it
    "attention_norm2": whole("norm2"),
}
LUMINA2 = Architecture(
    "Lumina2",
    ("layers.0.attention.qkv", "layers.0.adaLN_modulation.1"),
    tuple(Block(f"{part}.#", f"{part}.#", LUMINA_BLOCK) for part in LUMINA_PARTS),
    {
        "x_embedder": whole("x_embedder"),
        "t_embedder.mlp.0": whole("time_caption_embed.timestep_embedder.linear_1"),
        "t_embedder.mlp.2": whole("time_caption_embed.timestep_embedder.linear_2"),
        "cap_embedder.0": whole("time_caption_embed.caption_embedder.0"),
        "cap_embedder.1": whole("time_caption_embed.caption_embedder.1"),
        "final_layer.adaLN_modulation.1": whole("norm_out.linear_1"),
        "final_layer.linear": whole("norm_out.linear_2"),
    },
)

Z_IMAGE_BLOCK = {
    "attention.qkv": qkv("attention.to_q", "attention.to_k", "attention.to_v"),
    "attention.out": whole("attention.to_out.0"),
    "attention.q_norm": whole("attention.norm_q"),
    "attention.k_norm": whole("attention.norm_k"),
    **same(
        "feed_forward.w1",
        "feed_forward.w2",
        "feed_forward.w3",
        "adaLN_modulation.0",
        "attention_norm1",
        "attention_norm2",
        "ffn_norm1",
        "ffn_norm2",
    ),
}
Z_IMAGE = Architecture(
    "Z-Image",
    ("layers.0.attention.qkv", "layers.0.adaLN_modulation.0"),
    tuple(Block(f"{part}.#", f"{part}.#", Z_IMAGE_BLOCK) for part in LUMINA_PARTS),
    {
        "x_embedder": whole("all_x_embedder.2-1"),
        "final_layer.linear": whole("all_final_layer.2-1.linear"),
        "final_layer.adaLN_modulation.1": whole("all_final_layer.2-1.adaLN_modulation.1"),
        **same("cap_embedder.0", "cap_embedder.1", "t_embedder.mlp.0", "t_embedder.mlp.2"),
    },
)

WAN_BLOCK = {
    **{
        f"{host}.{theirs}": whole(f"{source}.{ours}")
        for host, source in (("self_attn", "attn1"), ("cross_attn", "attn2"))
        for theirs, ours in (
            ("q", "to_q"),
            ("k", "to_k"),
            ("v", "to_v"),
            ("o", "to_out.0"),
            ("norm_q", "norm_q"),
            ("norm_k", "norm_k"),
        )
    },
    "cross_attn.k_img": whole("attn2.add_k_proj"),
    "cross_attn.v_img": whole("attn2.add_v_proj"),
    "cross_attn.norm_k_img": whole("attn2.norm_added_k"),
    "ffn.0": whole("ffn.net.0.proj"),
    "ffn.2": whole("ffn.net.2"),
    "norm3": whole("norm2"),
    "modulation": whole("scale_shift_table"),
}
WAN = Architecture(
    "Wan",
    ("blocks.0.self_attn.q", "blocks.0.cross_attn.q", "head.head"),
    (Block("blocks.#", "blocks.#", WAN_BLOCK),),
    {
        "patch_embedding": whole("patch_embedding"),
        "time_embedding.0": whole("condition_embedder.time_embedder.linear_1"),
        "time_embedding.2": whole("condition_embedder.time_embedder.linear_2"),
        "time_projection.1": whole("condition_embedder.time_proj"),
        "text_embedding.0": whole("condition_embedder.text_embedder.linear_1"),
        "text_embedding.2": whole("condition_embedder.text_embedder.linear_2"),
        "img_emb.proj.0": whole("condition_embedder.image_embedder.norm1"),
        "img_emb.proj.1": whole("condition_embedder.image_embedder.ff.net.0.proj"),
        "img_emb.proj.3": whole("condition_embedder.image_embedder.ff.net.2"),
        "img_emb.proj.4": whole("condition_embedder.image_embedder.norm2"),
        "head.head": whole("proj_out"),
        "head.modulation": whole("scale_shift_table"),
    },
)

PIXART_BLOCK = {
    "attn.qkv": qkv("attn1.to_q", "attn1.to_k", "attn1.to_v"),
    "attn.proj": whole("attn1.to_out.0"),
    "cross_attn.q_linear": whole("attn2.to_q"),
    "cross_attn.kv_linear": kv("attn2.to_k", "attn2.to_v"),
    "cross_attn.proj": whole("attn2.to_out.0"),
    "mlp.fc1": whole("ff.net.0.proj"),
    "mlp.fc2": whole("ff.net.2"),
    "scale_shift_table": whole("scale_shift_table"),
}
PIXART = Architecture(
    "PixArt",
    ("blocks.0.cross_attn.kv_linear", "t_block.1"),
    (Block("blocks.#", "transformer_blocks.#", PIXART_BLOCK),),
    {
        "x_embedder.proj": whole("pos_embed.proj"),
        "y_embedder.y_proj.fc1": whole("caption_projection.linear_1"),
        "y_embedder.y_proj.fc2": whole("caption_projection.linear_2"),
        "y_embedder.y_embedding": whole("caption_projection.y_embedding"),
        "t_block.1": whole("adaln_single.linear"),
        **{
            f"{host}.mlp.{2 * i}": whole(f"adaln_single.emb.{source}.linear_{i + 1}")
            for i in range(2)
            for host, source in (
                ("t_embedder", "timestep_embedder"),
                ("csize_embedder", "resolution_embedder"),
                ("ar_embedder", "aspect_ratio_embedder"),
            )
        },
        "final_layer.linear": whole("proj_out"),
        "final_layer.scale_shift_table": whole("scale_shift_table"),
    },
)

QWEN_IMAGE_BLOCK = same(
    *(f"attn.{name}" for name in ("to_q", "to_k", "to_v", "to_out.0", "norm_q", "norm_k")),
    *(f"attn.{name}" for name in ("add_q_proj", "add_k_proj", "add_v_proj", "to_add_out")),
    *(f"attn.{name}" for name in ("norm_added_q", "norm_added_k")),
    *(f"{stream}_{name}" for stream in ("img", "txt") for name in ("mod.1", "mlp.net.0.proj", "mlp.net.2")),
)
QWEN_IMAGE = Architecture(
    "Qwen-Image",
    ("transformer_blocks.0.img_mod.1", "transformer_blocks.0.txt_mod.1"),
    (Block("transformer_blocks.#", "transformer_blocks.#", QWEN_IMAGE_BLOCK),),
    same(
        "img_in",
        "txt_in",
        "txt_norm",
        "proj_out",
        "norm_out.linear",
        "time_text_embed.timestep_embedder.linear_1",
        "time_text_embed.timestep_embedder.linear_2",
    ),
)

AURAFLOW_DOUBLE = {
    **{
        f"attn.w2{part}": whole(f"attn.to_{source}")
        for part, source in (("q", "q"), ("k", "k"), ("v", "v"), ("o", "out.0"))
    },
    **{
        f"attn.w1{part}": whole(f"attn.{source}")
        for part, source in (("q", "add_q_proj"), ("k", "add_k_proj"), ("v", "add_v_proj"), ("o", "to_add_out"))
    },
    **{
        f"mlp{stream}.{host}": whole(f"{ff}.{source}")
        for stream, ff in (("X", "ff"), ("C", "ff_context"))
        for host, source in (("c_fc1", "linear_1"), ("c_fc2", "linear_2"), ("c_proj", "out_projection"))
    },
    "modX.1": whole("norm1.linear"),
    "modC.1": whole("norm1_context.linear"),
}
AURAFLOW_SINGLE = {
    **{
        f"attn.w1{part}": whole(f"attn.to_{source}")
        for part, source in (("q", "q"), ("k", "k"), ("v", "v"), ("o", "out.0"))
    },
    "modCX.1": whole("norm1.linear"),
    "mlp.c_fc1": whole("ff.linear_1"),
    "mlp.c_fc2": whole("ff.linear_2"),
    "mlp.c_proj": whole("ff.out_projection"),
}
AURAFLOW = Architecture(
    "AuraFlow",
    ("double_layers.0.attn.w1q", "single_layers.0.attn.w1q"),
    (
        Block("double_layers.#", "joint_transformer_blocks.#", AURAFLOW_DOUBLE),
        Block("single_layers.#", "single_transformer_blocks.#", AURAFLOW_SINGLE),
    ),
    {
        "init_x_linear": whole("pos_embed.proj"),
        "cond_seq_linear": whole("context_embedder"),
        "t_embedder.mlp.0": whole("time_step_proj.linear_1"),
        "t_embedder.mlp.2": whole("time_step_proj.linear_2"),
        "final_linear": whole("proj_out"),
        "modF.1": swapped("norm_out.linear"),
    },
)
