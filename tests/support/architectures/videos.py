"""Transformers that make videos."""

from __future__ import annotations

from .tiny import BY_RULES, SAME, Tiny

LTX_SHAPE = dict(num_layers=1, num_attention_heads=32, attention_head_dim=8, cross_attention_dim=256)

COSMOS_SHAPE = dict(num_layers=1, num_attention_heads=16, attention_head_dim=128, extra_pos_embed_type=None)
COSMOS_HOST = dict(
    max_img_h=240,
    max_img_w=240,
    max_frames=128,
    in_channels=16,
    out_channels=16,
    patch_spatial=2,
    patch_temporal=1,
    model_channels=2048,
    num_blocks=1,
    num_heads=16,
    use_adaln_lora=True,
    pos_emb_cls="rope3d",
)

VIDEOS: dict[str, Tiny] = {
    "Wan 2.1": Tiny(
        "WanTransformer3DModel",
        dict(
            num_layers=1,
            num_attention_heads=2,
            ffn_dim=512,
            text_dim=4096,
            added_kv_proj_dim=256,
            image_dim=1280,
            in_channels=36,
        ),
        "convert_wan_transformer_to_diffusers",
        (
            "wan.model.WanModel",
            dict(
                model_type="i2v", dim=256, in_dim=36, out_dim=16, ffn_dim=512, text_dim=4096, num_heads=2, num_layers=1
            ),
        ),
    ),
    "Wan 2.2": Tiny(
        "WanTransformer3DModel",
        dict(num_layers=1, num_attention_heads=2, ffn_dim=512, text_dim=4096, in_channels=16),
        "convert_wan_transformer_to_diffusers",
        (
            "wan.model.WanModel",
            dict(
                model_type="t2v", dim=256, in_dim=16, out_dim=16, ffn_dim=512, text_dim=4096, num_heads=2, num_layers=1
            ),
        ),
    ),
    "HunyuanVideo": Tiny(
        "HunyuanVideoTransformer3DModel",
        dict(num_layers=1, num_single_layers=1, num_refiner_layers=2, text_embed_dim=64, pooled_projection_dim=768),
        "convert_hunyuan_video_transformer_to_diffusers",
        (
            "hunyuan_video.model.HunyuanVideo",
            dict(
                image_model="hunyuan_video",
                in_channels=16,
                out_channels=16,
                vec_in_dim=768,
                context_in_dim=64,
                hidden_size=3072,
                mlp_ratio=4.0,
                num_heads=24,
                depth=1,
                depth_single_blocks=1,
                axes_dim=[16, 56, 56],
                theta=256,
                patch_size=[1, 2, 2],
                qkv_bias=True,
                guidance_embed=True,
                byt5=False,
                meanflow=False,
                use_cond_type_embedding=False,
                vision_in_dim=None,
                meanflow_sum=False,
            ),
        ),
    ),
    "HunyuanVideo 1.5": Tiny(
        "HunyuanVideo15Transformer3DModel",
        dict(num_layers=1, num_attention_heads=2),
        BY_RULES,
        (
            "hunyuan_video.model.HunyuanVideo",
            dict(
                image_model="hunyuan_video",
                in_channels=65,
                out_channels=32,
                vec_in_dim=None,
                context_in_dim=3584,
                hidden_size=256,
                mlp_ratio=4.0,
                num_heads=2,
                depth=1,
                depth_single_blocks=0,
                axes_dim=[16, 56, 56],
                theta=256,
                patch_size=[1, 1, 1],
                qkv_bias=True,
                guidance_embed=False,
                byt5=True,
                meanflow=False,
                use_cond_type_embedding=True,
                vision_in_dim=1152,
                meanflow_sum=True,
            ),
        ),
    ),
    "LTX-Video": Tiny(
        "LTXVideoTransformer3DModel",
        LTX_SHAPE,
        "convert_ltx_transformer_checkpoint_to_diffusers",
        ("lightricks.model.LTXVModel", LTX_SHAPE),
    ),
    "LTX-2": Tiny(
        "LTX2VideoTransformer3DModel",
        LTX_SHAPE,
        "convert_ltx2_transformer_to_diffusers",
        ("lightricks.av_model.LTXAVModel", LTX_SHAPE),
    ),
    "CogVideoX": Tiny(
        "CogVideoXTransformer3DModel",
        dict(
            num_attention_heads=2,
            attention_head_dim=64,
            num_layers=1,
            time_embed_dim=64,
            text_embed_dim=64,
            use_rotary_positional_embeddings=True,
            patch_size_t=2,
            patch_bias=True,
            ofs_embed_dim=64,
            in_channels=32,
        ),
        BY_RULES,
        (
            "cogvideo.model.CogVideoXTransformer3DModel",
            dict(
                num_attention_heads=2,
                attention_head_dim=64,
                num_layers=1,
                time_embed_dim=64,
                text_embed_dim=64,
                use_rotary_positional_embeddings=True,
                patch_size_t=2,
                ofs_embed_dim=64,
                in_channels=32,
            ),
        ),
    ),
    "Kandinsky 5": Tiny(
        "Kandinsky5Transformer3DModel",
        dict(
            in_visual_dim=16,
            out_visual_dim=16,
            visual_cond=True,
            model_dim=128,
            ff_dim=256,
            time_dim=64,
            num_text_blocks=1,
            num_visual_blocks=1,
        ),
        SAME,
    ),
    "Cosmos-Predict2": Tiny(
        "CosmosTransformer3DModel",
        COSMOS_SHAPE,
        "convert_cosmos_transformer_checkpoint_to_diffusers",
        ("cosmos.predict2.MiniTrainDIT", COSMOS_HOST),
        shrunk=dict(num_blocks=1),
    ),
}
