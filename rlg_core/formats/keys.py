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

PREFIXES = tuple(
    re.compile(prefix)
    for prefix in (
        r"base_model\.model\.",
        r"transformer(_2)?\.",
        r"unet\.",
        r"model\.diffusion_model\.",
        r"diffusion_model\.",
        r"lora_unet__?",
        r"lora_transformer_",
        r"lycoris_",
        r"model\.",
    )
)
"""Prefixes that tools put before the module's name, in the order of stripping. Several may follow each other."""

TEXT_ENCODERS = re.compile(
    r"(?:base_model\.model\.)?(?:text_encoders?(?:_[23])?\.|lora_te\d?_|lora_prior_te_|cond_stage_model\.)"
)

SECOND_COMPONENT = re.compile(r"(?:base_model\.model\.)?(?P<adapter>transformer_2)\.")
"""Wan 2.2 has two transformers. A file for both keeps the keys of the second one under this name."""


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
    for ending, part in ENDINGS:
        match = ending.search(name)
        if match and match.start() > 0:
            module = name[: match.start()]
            second = SECOND_COMPONENT.match(module)
            return Key(module, part, match.groupdict().get("adapter") or (second and second["adapter"]))
    return Key(name, "parameter")


def spellings(module: str) -> Iterable[str]:
    """`module` as it stands, then with one prefix after another stripped."""
    yield module
    while match := next(filter(None, (prefix.match(module) for prefix in PREFIXES)), None):
        module = module[match.end() :]
        yield module
