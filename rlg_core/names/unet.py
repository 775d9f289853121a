"""Stable Diffusion 1.x, 2.x and XL: diffusers' UNet2DConditionModel with two residual blocks per level."""

from .cuts import whole
from .rule import Architecture, Block

LEVELS = range(4)

RESNET = {
    "in_layers.0": whole("norm1"),
    "in_layers.2": whole("conv1"),
    "emb_layers.1": whole("time_emb_proj"),
    "out_layers.0": whole("norm2"),
    "out_layers.3": whole("conv2"),
    "skip_connection": whole("conv_shortcut"),
}

DOWN = tuple(
    Block(f"input_blocks.{3 * level + i + 1}.{part}", f"down_blocks.{level}.{name}.{i}", leaves)
    for level in LEVELS
    for i in range(2)
    for part, name, leaves in ((0, "resnets", RESNET), (1, "attentions", None))
)
UP = tuple(
    Block(f"output_blocks.{3 * level + i}.{part}", f"up_blocks.{level}.{name}.{i}", leaves)
    for level in LEVELS
    for i in range(3)
    for part, name, leaves in ((0, "resnets", RESNET), (1, "attentions", None))
)
MIDDLE = (
    Block("middle_block.0", "mid_block.resnets.0", RESNET),
    Block("middle_block.1", "mid_block.attentions.0", None),
    Block("middle_block.2", "mid_block.resnets.1", RESNET),
)

UNET = Architecture(
    "Stable Diffusion UNet",
    ("input_blocks.1.0.in_layers.2", "output_blocks.0.0.in_layers.2"),
    DOWN + MIDDLE + UP,
    {
        "input_blocks.0.0": whole("conv_in"),
        "time_embed.0": whole("time_embedding.linear_1"),
        "time_embed.2": whole("time_embedding.linear_2"),
        "label_emb.0.0": whole("add_embedding.linear_1", "class_embedding.linear_1"),
        "label_emb.0.2": whole("add_embedding.linear_2", "class_embedding.linear_2"),
        "out.0": whole("conv_norm_out"),
        "out.2": whole("conv_out"),
        **{f"input_blocks.{3 * level + 3}.0.op": whole(f"down_blocks.{level}.downsamplers.0.conv") for level in LEVELS},
        # the upsampler comes after the attention, where a level has one
        **{
            f"output_blocks.{3 * level + 2}.{part}.conv": whole(f"up_blocks.{level}.upsamplers.0.conv")
            for level in LEVELS
            for part in (1, 2)
        },
    },
)
