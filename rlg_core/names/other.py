"""Transformers of other makes: CogVideoX, Cosmos-Predict2 and Anima, HiDream, Kandinsky 5, OmniGen2, Stable Cascade."""

from .cuts import same, whole
from .rule import Architecture, Block

COGVIDEOX = Architecture(
    "CogVideoX",
    ("blocks.0.attn_out", "blocks.0.norm1.linear"),
    (
        Block(
            "blocks.#",
            "transformer_blocks.#",
            {
                "q": whole("attn1.to_q"),
                "k": whole("attn1.to_k"),
                "v": whole("attn1.to_v"),
                "attn_out": whole("attn1.to_out.0"),
                "norm_q": whole("attn1.norm_q"),
                "norm_k": whole("attn1.norm_k"),
                "ff_proj": whole("ff.net.0.proj"),
                "ff_out": whole("ff.net.2"),
                **same("norm1.linear", "norm1.norm", "norm2.linear", "norm2.norm"),
            },
        ),
    ),
    {
        **{
            f"{name}_embedding_linear_{i}": whole(f"{name}_embedding.linear_{i}")
            for name in ("time", "ofs")
            for i in (1, 2)
        },
        **same("patch_embed.proj", "patch_embed.text_proj", "patch_embed.pos_embedding"),
        **same("norm_final", "norm_out.linear", "norm_out.norm", "proj_out"),
    },
)

COSMOS_ATTENTION = {
    "q_proj": "to_q",
    "k_proj": "to_k",
    "v_proj": "to_v",
    "output_proj": "to_out.0",
    "q_norm": "norm_q",
    "k_norm": "norm_k",
}
COSMOS_BLOCK = {
    **{
        f"{host}.{theirs}": whole(f"{source}.{ours}")
        for host, source in (("self_attn", "attn1"), ("cross_attn", "attn2"))
        for theirs, ours in COSMOS_ATTENTION.items()
    },
    "mlp.layer1": whole("ff.net.0.proj"),
    "mlp.layer2": whole("ff.net.2"),
    **{
        f"adaln_modulation_{host}.{i}": whole(f"{source}.linear_{i}")
        for host, source in (("self_attn", "norm1"), ("cross_attn", "norm2"), ("mlp", "norm3"))
        for i in (1, 2)
    },
}
COSMOS = Architecture(
    "Cosmos-Predict2",
    ("blocks.0.self_attn.q_proj", "blocks.0.adaln_modulation_mlp.1", "x_embedder.proj.1"),
    (Block("blocks.#", "transformer_blocks.#", COSMOS_BLOCK),),
    {
        "x_embedder.proj.1": whole("patch_embed.proj"),
        "t_embedder.1.linear_1": whole("time_embed.t_embedder.linear_1"),
        "t_embedder.1.linear_2": whole("time_embed.t_embedder.linear_2"),
        "t_embedding_norm": whole("time_embed.norm"),
        "final_layer.adaln_modulation.1": whole("norm_out.linear_1"),
        "final_layer.adaln_modulation.2": whole("norm_out.linear_2"),
        "final_layer.linear": whole("proj_out"),
    },
)
"""Anima too, whose text adapter goes by the host's names."""

HIDREAM = Architecture(
    "HiDream",
    ("double_stream_blocks.0.block.attn1.to_q", "caption_projection.0.linear"),
    unchanged=(
        r"(double|single)_stream_blocks\.\d+\.block\..+",
        r"(x|t|p)_embedder\..+",
        r"caption_projection\.\d+\.linear",
        r"final_layer\.(linear|adaLN_modulation\.1)",
    ),
)

KANDINSKY5 = Architecture(
    "Kandinsky 5",
    ("visual_transformer_blocks.0.feed_forward.in_layer", "text_transformer_blocks.0.feed_forward.in_layer"),
    unchanged=(
        r"(visual|text)_transformer_blocks\.\d+\..+",
        r"(visual|text|pooled_text|time)_embeddings\..+",
        r"out_layer\..+",
    ),
)

OMNIGEN2 = Architecture(
    "OmniGen2",
    ("ref_image_patch_embedder", "ref_image_refiner.0.attn.to_q"),
    unchanged=(
        r"(layers|(noise|ref_image|context)_refiner)\.\d+\.(attn|feed_forward|norm\d|ffn_norm\d)\b.*",
        r"x_embedder",
        r"ref_image_patch_embedder",
        r"time_caption_embed\..+",
        r"norm_out\.linear_[12]",
        r"image_index_embedding",
    ),
)

CASCADE_ATTENTION = {**same("to_q", "to_k", "to_v"), "out_proj": whole("to_out.0")}
STABLE_CASCADE = Architecture(
    "Stable Cascade",
    ("clip_txt_pooled_mapper", "down_blocks.0.0.channelwise.0"),
    tuple(
        Block(f"{side}_blocks.#.#.attention.attn", f"{side}_blocks.#.#.attention", CASCADE_ATTENTION)
        for side in ("down", "up")
    ),
    unchanged=(
        r"(down|up)_blocks\.\d+\.\d+\.(channelwise\.\d+|depthwise|kv_mapper\.\d+|mapper(_\w+)?)",
        r"(clip_txt(_pooled)?|clip_img)_mapper",
        r"(embedding|clf)\.\d+",
        r"(down_downscalers|up_upscalers)\.\d+\.\d+\.blocks\.\d+",
    ),
)
