"""Stable Diffusion 3 and 3.5: diffusers' SD3Transformer2DModel."""

from .cuts import qkv, swapped, whole
from .rule import Architecture, Block

JOINT_BLOCK = {
    "x_block.attn.qkv": qkv("attn.to_q", "attn.to_k", "attn.to_v"),
    "x_block.attn2.qkv": qkv("attn2.to_q", "attn2.to_k", "attn2.to_v"),
    "context_block.attn.qkv": qkv("attn.add_q_proj", "attn.add_k_proj", "attn.add_v_proj"),
    "x_block.attn.proj": whole("attn.to_out.0"),
    "x_block.attn2.proj": whole("attn2.to_out.0"),
    "context_block.attn.proj": whole("attn.to_add_out"),
    "x_block.attn.ln_q": whole("attn.norm_q"),
    "x_block.attn.ln_k": whole("attn.norm_k"),
    "x_block.attn2.ln_q": whole("attn2.norm_q"),
    "x_block.attn2.ln_k": whole("attn2.norm_k"),
    "context_block.attn.ln_q": whole("attn.norm_added_q"),
    "context_block.attn.ln_k": whole("attn.norm_added_k"),
    "x_block.mlp.fc1": whole("ff.net.0.proj"),
    "x_block.mlp.fc2": whole("ff.net.2"),
    "context_block.mlp.fc1": whole("ff_context.net.0.proj"),
    "context_block.mlp.fc2": whole("ff_context.net.2"),
    "x_block.adaLN_modulation.1": whole("norm1.linear"),
    "context_block.adaLN_modulation.1": swapped("norm1_context.linear"),
}

SD3 = Architecture(
    "SD3",
    ("joint_blocks.0.context_block.attn.qkv",),
    (Block("joint_blocks.#", "transformer_blocks.#", JOINT_BLOCK),),
    {
        "x_embedder.proj": whole("pos_embed.proj"),
        "context_embedder": whole("context_embedder"),
        "t_embedder.mlp.0": whole("time_text_embed.timestep_embedder.linear_1"),
        "t_embedder.mlp.2": whole("time_text_embed.timestep_embedder.linear_2"),
        "y_embedder.mlp.0": whole("time_text_embed.text_embedder.linear_1"),
        "y_embedder.mlp.2": whole("time_text_embed.text_embedder.linear_2"),
        "final_layer.linear": whole("proj_out"),
        "final_layer.adaLN_modulation.1": swapped("norm_out.linear"),
    },
)
