"""All architectures with rules, the more specific first. Models without rules go by the host's own names."""

from .flux import FLUX, FLUX2, HUNYUAN_VIDEO
from .mmdit import SD3
from .single import AURAFLOW, LUMINA2, PIXART, QWEN_IMAGE, WAN, Z_IMAGE
from .unet import UNET

ARCHITECTURES = (UNET, SD3, FLUX2, HUNYUAN_VIDEO, FLUX, QWEN_IMAGE, Z_IMAGE, LUMINA2, WAN, PIXART, AURAFLOW)
