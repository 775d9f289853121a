"""What the keys of adapter files mean: one table of endings, for every trainer and tool there is a file of.

A key is `<prefix><module><ending>`; the ending says which part of the module's change the tensor is.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

ADAPTER = r"(?:\.(?P<adapter>(?!weight$|bias$)[^.]+))?"
"""PEFT puts the adapter's name (`default`, `old`) into the keys of raw state dicts."""

UNCHANGED = "unchanged"
"""Base weights that a raw state dict holds along with the adapter's."""

ENDINGS = tuple(
    (re.compile(pattern + "$"), part)
    for pattern, part in (
        # PEFT, and diffusers since PEFT
        (rf"\.lora_A{ADAPTER}(?:\.weight)?", "down"),
        (rf"\.lora_B{ADAPTER}(?:\.weight)?", "up"),
        (rf"\.lora_B{ADAPTER}\.bias", "up_bias"),
        (rf"\.lora_magnitude_vector{ADAPTER}(?:\.weight)?", "magnitude"),
        (r"\.base_layer\.weight", UNCHANGED),
        (r"\.original_module\.(?:weight|bias)", UNCHANGED),
        (r"\.base_layer\.bias", "bias"),
        (rf"\.modules_to_save{ADAPTER}\.weight", "weight"),
        (rf"\.modules_to_save{ADAPTER}\.bias", "bias"),
        # diffusers before PEFT: attention processors, and the text encoders' linear layers
        (r"(?:_lora|\.lora|\.lora_linear_layer)\.down\.weight", "down"),
        (r"(?:_lora|\.lora|\.lora_linear_layer)\.up\.weight", "up"),
        # kohya and LyCORIS LoCon
        (r"\.lora_down\.weight", "down"),
        (r"\.lora_up\.weight", "up"),
        (r"\.lora_mid\.weight", "mid"),
        (r"\.alpha", "alpha"),
        (r"\.dora_scale", "dora_scale"),
        # LyCORIS LoHa and LoKr, from LyCORIS or PEFT
        *(
            (rf"\.{part}{ADAPTER}", part)
            for part in (
                "hada_w1_a",
                "hada_w1_b",
                "hada_w2_a",
                "hada_w2_b",
                "hada_t1",
                "hada_t2",
                "lokr_w1",
                "lokr_w1_a",
                "lokr_w1_b",
                "lokr_w2",
                "lokr_w2_a",
                "lokr_w2_b",
                "lokr_t2",
            )
        ),
        # full differences and full values
        (r"\.diff", "diff"),
        (r"\.diff_b", "diff_bias"),
        (r"\.w_norm", "diff"),
        (r"\.b_norm", "diff_bias"),
        (r"\.set_weight", "weight"),
        (r"\.weight", "weight"),
        (r"\.bias", "bias"),
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
"""What tools put before the module's name, in the order in which it is taken off; several may stand in a row."""

TEXT_ENCODERS = re.compile(
    r"(?:base_model\.model\.)?(?:text_encoders?(?:_[23])?\.|lora_te\d?_|lora_prior_te_|cond_stage_model\.)"
)

SECOND_COMPONENT = re.compile(r"(?:base_model\.model\.)?(?P<adapter>transformer_2)\.")
"""Wan 2.2 has two transformers; a file for both keeps the second one's keys under its own name."""


@dataclass(frozen=True)
class Key:
    """One key of a file, read: `module` as the file names it, with its prefixes; `adapter` is None unless named."""

    module: str
    part: str
    adapter: str | None = None

    @property
    def is_text_encoder(self) -> bool:
        return TEXT_ENCODERS.match(self.module) is not None


def read_key(name: str) -> Key:
    """The meaning of one key; one without a known ending is a parameter of its own (`scale_shift_table`)."""
    for ending, part in ENDINGS:
        match = ending.search(name)
        if match and match.start() > 0:
            module = name[: match.start()]
            second = SECOND_COMPONENT.match(module)
            return Key(module, part, match.groupdict().get("adapter") or (second and second["adapter"]))
    return Key(name, "parameter")


def spellings(module: str) -> Iterable[str]:
    """`module` as it stands, then with one prefix after the other taken off."""
    yield module
    while match := next(filter(None, (prefix.match(module) for prefix in PREFIXES)), None):
        module = module[match.end() :]
        yield module
