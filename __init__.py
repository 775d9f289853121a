"""ComfyUI-RLG: Reinforcement Learning Guidance for ComfyUI (arXiv 2508.21016)."""

from .nodes import comfy_entrypoint

WEB_DIRECTORY = "./web"

__all__ = ["WEB_DIRECTORY", "comfy_entrypoint"]
