"""Reads adapter files as named terms: container, keys, scale, algebra."""

from .files import STEM, adapter_file, named_adapters
from .read import Adapter, Change, read_adapter

__all__ = ["STEM", "Adapter", "Change", "adapter_file", "named_adapters", "read_adapter"]
