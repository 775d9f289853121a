"""Every architecture at the smallest size that the hosts recognise."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Tiny:
    """One architecture: its diffusers class and geometry, and how the host's layout becomes diffusers'.

    `to_diffusers`: diffusers' own conversion of an original checkpoint, by name; None: the host converts on load.
    `host`: the host's class and geometry where the host loads the original layout only.
    """

    cls: str
    config: Mapping[str, Any]
    to_diffusers: str | None = None
    host: tuple[str, Mapping[str, Any]] | None = None
    prefix: str = "transformer"


UNET = dict(
    image_size=32,
    in_channels=4,
    out_channels=4,
    model_channels=320,
    use_spatial_transformer=True,
    legacy=False,
    use_temporal_attention=False,
    use_temporal_resblock=False,
)

SDXL_SHAPE = dict(
    block_out_channels=(320, 640, 1280),
    cross_attention_dim=2048,
    use_linear_projection=True,
    down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
    up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
    addition_embed_type="text_time",
    addition_time_embed_dim=256,
    projection_class_embeddings_input_dim=2816,
)

ARCHITECTURES: dict[str, Tiny] = {
    "SD1.5": Tiny(
        "UNet2DConditionModel",
        dict(block_out_channels=(320,) * 4, cross_attention_dim=768, attention_head_dim=8),
        "convert_ldm_unet_checkpoint",
        (
            "modules.diffusionmodules.openaimodel.UNetModel",
            dict(
                **UNET,
                num_res_blocks=[2] * 4,
                channel_mult=[1] * 4,
                transformer_depth=[1] * 6 + [0] * 2,
                transformer_depth_middle=1,
                transformer_depth_output=[1] * 9 + [0] * 3,
                context_dim=768,
                num_heads=8,
                use_linear_in_transformer=False,
            ),
        ),
        prefix="unet",
    ),
    "SDXL": Tiny(
        "UNet2DConditionModel",
        SDXL_SHAPE
        | dict(block_out_channels=(320,) * 3, attention_head_dim=(5, 5, 5), transformer_layers_per_block=(1, 2, 10)),
        "convert_ldm_unet_checkpoint",
        (
            "modules.diffusionmodules.openaimodel.UNetModel",
            dict(
                **UNET,
                num_res_blocks=[2] * 3,
                channel_mult=[1] * 3,
                transformer_depth=[0, 0, 2, 2, 10, 10],
                transformer_depth_middle=10,
                transformer_depth_output=[0, 0, 0, 2, 2, 2, 10, 10, 10],
                context_dim=2048,
                num_head_channels=64,
                use_linear_in_transformer=True,
                num_classes="sequential",
                adm_in_channels=2816,
            ),
        ),
        prefix="unet",
    ),
    "SSD-1B": Tiny(
        "UNet2DConditionModel",
        dict(
            **SDXL_SHAPE,
            attention_head_dim=(5, 10, 20),
            transformer_layers_per_block=[1, [2, 2], [4, 4]],
            reverse_transformer_layers_per_block=[[4, 4, 10], [2, 1, 1], 1],
            mid_block_type="UNetMidBlock2D",
        ),
        prefix="unet",
    ),
    "KOALA-700M": Tiny(
        "UNet2DConditionModel",
        dict(
            **SDXL_SHAPE,
            attention_head_dim=(5, 10, 20),
            layers_per_block=1,
            transformer_layers_per_block=[1, 2, 5],
            mid_block_type=None,
        ),
        prefix="unet",
    ),
    "BK-SDM": Tiny(
        "UNet2DConditionModel",
        dict(block_out_channels=(320,) * 4, cross_attention_dim=768, attention_head_dim=8, layers_per_block=1),
        "convert_ldm_unet_checkpoint",
        (
            "modules.diffusionmodules.openaimodel.UNetModel",
            dict(
                **UNET,
                num_res_blocks=[1] * 4,
                channel_mult=[1] * 4,
                transformer_depth=[1] * 3 + [0],
                transformer_depth_middle=1,
                transformer_depth_output=[1] * 6 + [0] * 2,
                context_dim=768,
                num_heads=8,
                use_linear_in_transformer=False,
            ),
        ),
        prefix="unet",
    ),
    "SD3.5": Tiny(
        "SD3Transformer2DModel",
        dict(
            num_layers=2,
            num_attention_heads=2,
            attention_head_dim=64,
            caption_projection_dim=128,
            joint_attention_dim=96,
            pooled_projection_dim=64,
            pos_embed_max_size=24,
            sample_size=16,
            qk_norm="rms_norm",
            dual_attention_layers=(0,),
        ),
    ),
    "FLUX": Tiny("FluxTransformer2DModel", dict(num_layers=1, num_single_layers=1, guidance_embeds=True)),
    "FLUX.2": Tiny(
        "Flux2Transformer2DModel",
        dict(
            num_layers=1,
            num_single_layers=1,
            num_attention_heads=48,
            attention_head_dim=128,
            joint_attention_dim=64,
            timestep_guidance_channels=256,
        ),
        "convert_flux2_transformer_checkpoint_to_diffusers",
        (
            "flux.model.Flux",
            dict(
                image_model="flux2",
                in_channels=128,
                out_channels=128,
                vec_in_dim=None,
                context_in_dim=64,
                hidden_size=6144,
                mlp_ratio=3.0,
                num_heads=48,
                depth=1,
                depth_single_blocks=1,
                axes_dim=[32] * 4,
                theta=2000,
                patch_size=1,
                qkv_bias=False,
                guidance_embed=True,
                global_modulation=True,
                mlp_silu_act=True,
                ops_bias=False,
                txt_ids_dims=[3],
            ),
        ),
    ),
    "Qwen-Image": Tiny("QwenImageTransformer2DModel", dict(num_layers=1)),
    "Z-Image": Tiny(
        "ZImageTransformer2DModel",
        dict(n_layers=2),
        "convert_z_image_transformer_checkpoint_to_diffusers",
        (
            "lumina.model.NextDiT",
            dict(
                patch_size=2,
                in_channels=16,
                dim=3840,
                cap_feat_dim=2560,
                n_layers=2,
                qk_norm=True,
                n_heads=30,
                n_kv_heads=30,
                axes_dims=[32, 48, 48],
                axes_lens=[1536, 512, 512],
                ffn_dim_multiplier=8 / 3,
                z_image_modulation=True,
                pad_tokens_multiple=32,
            ),
        ),
    ),
    "Lumina2": Tiny(
        "Lumina2Transformer2DModel",
        dict(num_layers=1, cap_feat_dim=2304),
        "convert_lumina2_to_diffusers",
        (
            "lumina.model.NextDiT",
            dict(
                patch_size=2,
                in_channels=16,
                dim=2304,
                cap_feat_dim=2304,
                n_layers=1,
                qk_norm=True,
                n_heads=24,
                n_kv_heads=8,
                axes_dims=[32] * 3,
                axes_lens=[300, 512, 512],
                ffn_dim_multiplier=4.0,
            ),
        ),
    ),
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
    "PixArt": Tiny(
        "PixArtTransformer2DModel",
        dict(num_layers=1, sample_size=32, caption_channels=4096, use_additional_conditions=False),
    ),
    "AuraFlow": Tiny("AuraFlowTransformer2DModel", dict(num_mmdit_layers=1, num_single_dit_layers=1)),
}

UNETS = frozenset(name for name, tiny in ARCHITECTURES.items() if tiny.prefix == "unet")
"""The architectures whose names the host maps itself."""
