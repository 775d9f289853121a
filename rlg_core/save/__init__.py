"""Writes terms as adapter files: a ComfyUI LoRA or a PEFT adapter, at their true strength, whole or not at all."""

from .comfyui import comfyui_tensors
from .files import write, write_peft
from .peft import peft_adapter

__all__ = ["comfyui_tensors", "peft_adapter", "write", "write_peft"]
