"""What the keys of adapter files mean, for every trainer and tool whose files are known.

A key is `<prefix><module><ending>`. The ending tells which part of the module's change the tensor is. Each algebra
lists its own endings.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

from ..algebra import ALGEBRAS, dora, full
from ..algebra.term import ADAPTER

UNCHANGED = "unchanged"
"""The part that stands for base weights, which a raw state dict holds along with the adapter's."""

WRAPPERS = (
    (r"\.base_layer\.weight", UNCHANGED),
    (r"\.original_module\.(?:weight|bias)", UNCHANGED),
    (r"\.base_layer\.bias", "bias"),
    (rf"\.modules_to_save{ADAPTER}\.weight", "weight"),
    (rf"\.modules_to_save{ADAPTER}\.bias", "bias"),
)
"""Keys of the modules that PEFT wraps around those it adapts or copies."""

ENDINGS = tuple(
    (re.compile(pattern + "$"), part)
    for pattern, part in (
        *WRAPPERS,
        *(ending for algebra in ALGEBRAS for ending in algebra.endings),
        *dora.ENDINGS,
        (r"\.alpha", "alpha"),
        *full.ENDINGS,
    )
)

FUSED = "to_q+to_k+to_v"
"""Stands for three modules that a file keeps as one, and no model has in one weight of its own."""

PREFIXES = tuple(
    re.compile(prefix)
    for prefix in (
        r"module\.",
        r"pipe\.",
        r"dit\.",
        r"base_model\.model\.",
        r"transformer(_2)?\.",
        r"unet\.",
        r"model\.diffusion_model\.",
        r"diffusion_model\.",
        r"lora_unet(\.|__?)(orig_mod_)?",
        r"lora_transformer_",
        r"lycoris_",
        r"model\.",
    )
)
"""Prefixes that tools put before the module's name, in the order of stripping. Several may follow each other."""

TEXT_ENCODERS = re.compile(
    r"(?:module\.|pipe\.)*(?:base_model\.model\.)?(?:text_encoders?(?:_[23])?\.|lora_te\d?_|lora_prior_te_|cond_stage_model\.)"
)

FIRST_COMPONENT, SECOND_COMPONENT = "transformer", "transformer_2"
"""Wan 2.2 has two transformers. A file for both keeps the keys of the second one under its own name."""

IN_SECOND = re.compile(rf"(?:module\.|pipe\.)*(?:base_model\.model\.)?(?P<adapter>{SECOND_COMPONENT})\.")

WRAPPED = re.compile(r"(?:^|(?<=\.))(?:_orig_mod|_fsdp_wrapped_module|_checkpoint_wrapped_module)\.")
"""What torch.compile, FSDP and activation checkpointing put into names, wherever they wrapped a module."""

HEADS = ("module.", "pipe.", "dit.")
"""What trainers put before every name of a checkpoint: the modules that hold the model."""

XLABS = re.compile(
    r"(?:^|(?<=\.))(double|single)_blocks\.(\d+)\.processor\.(qkv|proj)_lora([12]?)\.(?=(?:up|down)\.weight$)"
)
XLABS_NAMES = {
    ("double", "qkv", "1"): "double_blocks.{}.img_attn.qkv",
    ("double", "qkv", "2"): "double_blocks.{}.txt_attn.qkv",
    ("double", "proj", "1"): "double_blocks.{}.img_attn.proj",
    ("double", "proj", "2"): "double_blocks.{}.txt_attn.proj",
    ("single", "qkv", ""): "single_transformer_blocks.{}.attn." + FUSED,
    ("single", "proj", ""): "single_blocks.{}.linear2",
}
"""XLabs' trainer names FLUX's layers after its attention processors."""


@dataclass(frozen=True)
class Key:
    """One key of a file, parsed: `module` as the file names it, with its prefixes; `adapter` is None unless named."""

    module: str
    part: str
    adapter: str | None = None

    @property
    def is_text_encoder(self) -> bool:
        return TEXT_ENCODERS.match(self.module) is not None


def read_key(name: str) -> Key:
    """Parses one key. A key without a known ending is a parameter by itself (`scale_shift_table`)."""
    name = XLABS.sub(_without_processor, WRAPPED.sub("", name))
    for ending, part in ENDINGS:
        match = ending.search(name)
        if match and match.start() > 0:
            module = name[: match.start()]
            second = IN_SECOND.match(module)
            return Key(module, part, match.groupdict().get("adapter") or (second and second["adapter"]))
    return Key(name, "parameter")


def _without_processor(match: re.Match[str]) -> str:
    blocks, number, layer, stream = match.groups()
    name = XLABS_NAMES.get((blocks, layer, stream))
    return match[0] if name is None else name.format(number) + ".lora."


def spellings(module: str) -> Iterable[str]:
    """`module` as it stands, then with one prefix after another stripped."""
    yield module
    while match := next(filter(None, (prefix.match(module) for prefix in PREFIXES)), None):
        module = module[match.end() :]
        yield module


def plain_names(names: Iterable[str]) -> dict[str, str]:
    """Names of a checkpoint's tensors -> the model's own: without wrappers, and without what all of them begin with."""
    plain = {name: WRAPPED.sub("", name) for name in names}
    while head := next((head for head in HEADS if plain and all(new.startswith(head) for new in plain.values())), None):
        plain = {name: new.removeprefix(head) for name, new in plain.items()}
    return plain
