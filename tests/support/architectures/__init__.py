"""Every architecture at the smallest size that the hosts recognise."""

from .images import IMAGES
from .tiny import BY_RULES, SAME, Tiny
from .unets import UNETS as UNET_ROWS
from .videos import VIDEOS

ARCHITECTURES: dict[str, Tiny] = {**UNET_ROWS, **IMAGES, **VIDEOS}

UNETS = frozenset(UNET_ROWS)
"""The architectures whose names the host maps itself."""

__all__ = ["ARCHITECTURES", "BY_RULES", "SAME", "UNETS", "Tiny"]
