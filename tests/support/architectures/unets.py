"""The UNets."""

from __future__ import annotations

from .tiny import Tiny

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
UNETS: dict[str, Tiny] = {
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
}
