"""All architectures with rules; what has none goes by the host's own names."""
from .mmdit import SD3

ARCHITECTURES = (SD3,)
