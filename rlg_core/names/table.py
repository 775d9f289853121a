"""All architectures with rules, the more specific first. Models without rules go by the host's own names."""

from .flux import CHROMA, FLUX, FLUX2, LONGCAT
from .hunyuan import HUNYUAN_IMAGE, HUNYUAN_VIDEO, HUNYUAN_VIDEO_15
from .ltx import LTX, LTX2
from .mmdit import SD3
from .other import COGVIDEOX, COSMOS, HIDREAM, KANDINSKY5, OMNIGEN2, STABLE_CASCADE
from .single import AURAFLOW, LUMINA2, PIXART, QWEN_IMAGE, WAN, Z_IMAGE
from .unet import UNET

ARCHITECTURES = (
    UNET,
    STABLE_CASCADE,
    SD3,
    FLUX2,
    HUNYUAN_VIDEO_15,
    HUNYUAN_IMAGE,
    HUNYUAN_VIDEO,
    CHROMA,
    LONGCAT,
    FLUX,
    QWEN_IMAGE,
    Z_IMAGE,
    LUMINA2,
    OMNIGEN2,
    WAN,
    LTX2,
    LTX,
    COGVIDEOX,
    COSMOS,
    HIDREAM,
    KANDINSKY5,
    PIXART,
    AURAFLOW,
)
