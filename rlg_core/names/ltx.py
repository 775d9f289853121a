"""LTX-Video and LTX-2: diffusers' LTXVideoTransformer3DModel and LTX2VideoTransformer3DModel."""

from .cuts import same, whole
from .rule import Architecture, Block, Leaves


def _attention(*names: str) -> Leaves:
    parts = {"q_norm": "norm_q", "k_norm": "norm_k"}
    parts |= {name: name for name in ("to_q", "to_k", "to_v", "to_out.0", "to_gate_logits")}
    return {f"{name}.{host}": whole(f"{name}.{source}") for name in names for host, source in parts.items()}


def _modulation(host: str, source: str) -> Leaves:
    layers = ("emb.timestep_embedder.linear_1", "emb.timestep_embedder.linear_2", "linear")
    return {f"{host}.{layer}": whole(f"{source}.{layer}") for layer in layers}


BLOCK = {**_attention("attn1", "attn2"), **same("ff.net.0.proj", "ff.net.2", "scale_shift_table")}
ENDS = {
    "patchify_proj": whole("proj_in"),
    **_modulation("adaln_single", "time_embed"),
    **same("caption_projection.linear_1", "caption_projection.linear_2", "proj_out", "scale_shift_table"),
}

LTX = Architecture(
    "LTX-Video",
    ("patchify_proj", "transformer_blocks.0.attn1.to_q"),
    (Block("transformer_blocks.#", "transformer_blocks.#", BLOCK),),
    ENDS,
)

LTX2_BLOCK = {
    **BLOCK,
    **_attention("audio_attn1", "audio_attn2", "audio_to_video_attn", "video_to_audio_attn"),
    **same("audio_ff.net.0.proj", "audio_ff.net.2", "audio_scale_shift_table"),
    **same("prompt_scale_shift_table", "audio_prompt_scale_shift_table"),
    **{
        f"scale_shift_table_a2v_ca_{stream}": whole(f"{stream}_a2v_cross_attn_scale_shift_table")
        for stream in ("video", "audio")
    },
}
LTX2 = Architecture(
    "LTX-2",
    ("audio_patchify_proj", "transformer_blocks.0.audio_attn1.to_q"),
    (Block("transformer_blocks.#", "transformer_blocks.#", LTX2_BLOCK),),
    {
        **ENDS,
        "audio_patchify_proj": whole("audio_proj_in"),
        **_modulation("audio_adaln_single", "audio_time_embed"),
        **_modulation("prompt_adaln_single", "prompt_adaln"),
        **_modulation("audio_prompt_adaln_single", "audio_prompt_adaln"),
        **_modulation("av_ca_video_scale_shift_adaln_single", "av_cross_attn_video_scale_shift"),
        **_modulation("av_ca_audio_scale_shift_adaln_single", "av_cross_attn_audio_scale_shift"),
        **_modulation("av_ca_a2v_gate_adaln_single", "av_cross_attn_video_a2v_gate"),
        **_modulation("av_ca_v2a_gate_adaln_single", "av_cross_attn_audio_v2a_gate"),
        **same("audio_caption_projection.linear_1", "audio_caption_projection.linear_2"),
        **same("audio_proj_out", "audio_scale_shift_table"),
    },
)
