"""Stable Diffusion 1.x, 2.x, XL and what was distilled from them: diffusers' UNet2DConditionModel.

Where its blocks are depends on how many each level has. The host knows that, and hands its own map in.
"""

from .rule import Architecture

UNET = Architecture(
    "Stable Diffusion UNet",
    ("input_blocks.0.0", "middle_block.0.in_layers.2", "output_blocks.0.0.in_layers.2"),
    signs=(
        r"conv_(in|out)",
        r"(time|add)_embedding\.linear_[12]",
        r"(down|up)_blocks\.\d+\.(resnets|attentions|downsamplers|upsamplers)\.\d+\..+",
        r"mid_block\.(resnets|attentions)\.\d+\..+",
        r"(input|output)_blocks\.\d+\.\d+\..+",
        r"middle_block\.\d+\..+",
    ),
)
