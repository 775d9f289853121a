"""Thousands of damaged adapters: each loads whole and right, or raises an `RLGError`; none hangs or loads partly.

Cases are numbered, and each is made from its number. The normal run has the first 3,000; `--fuzz-cases 30000` has more,
`--fuzz-seed 30000` goes on from there, and `--fuzz-seed 1234 --fuzz-cases 1` makes case 1234 alone.
"""

from __future__ import annotations

import json
import math
import random
import struct
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from rlg_core.algebra import Replace
from rlg_core.errors import RLGError
from rlg_core.formats import read_adapter
from rlg_core.names import NameMap, match

CASES_PER_TEST = 1000
SHAPES = {
    f"double_blocks.{i}.{module}.weight": shape
    for i in range(2)
    for module, shape in (
        ("img_attn.qkv", (24, 8)),
        ("img_attn.proj", (8, 8)),
        ("img_mlp.0", (32, 8)),
        ("img_mlp.2", (8, 32)),
    )
}
SHAPES |= {"single_blocks.0.linear1.weight": (56, 8), "single_blocks.0.linear2.weight": (8, 40)}
SHAPES |= {"img_in.weight": (8, 4), "img_in.bias": (8,)}
NAMES = NameMap(SHAPES)
MODULES = {
    "transformer_blocks.0.attn.to_q": (8, 8),
    "transformer_blocks.1.attn.to_v": (8, 8),
    "transformer_blocks.0.ff.net.2": (8, 32),
    "single_transformer_blocks.0.proj_mlp": (32, 8),
    "x_embedder": (8, 4),
}
RANK, ALPHA = 2, 6
XLABS = {
    "double_blocks.0.processor.qkv_lora1": (24, 8),
    "double_blocks.1.processor.proj_lora1": (8, 8),
    "single_blocks.0.processor.qkv_lora": (24, 8),
    "single_blocks.0.processor.proj_lora": (8, 40),
}
CONFIGS = ("adapter_config.json", "lora_config.json", "rl_config.json", "rl.json")


@dataclass
class File:
    """A safetensors file as Python values, and the configs beside it; `alpha` and `adapter` are the loader's inputs."""

    header: dict[str, Any]
    data: bytearray
    configs: dict[str, str] = field(default_factory=dict)
    ending: str = ".safetensors"
    alpha: float = 0.0
    adapter: str = ""

    def write(self, folder: Path) -> Path:
        for name in CONFIGS:
            if name in self.configs:
                (folder / name).write_bytes(self.configs[name].encode("utf-8", "surrogatepass"))
            else:
                (folder / name).unlink(missing_ok=True)
        text = json.dumps(self.header).encode()
        path = folder / f"rl{self.ending}"
        path.write_bytes(struct.pack("<Q", len(text)) + text + self.data)
        return path


def random_file(draw: random.Random) -> File:
    """A good file: PEFT, diffusers, kohya with alphas or a header, LoHa or XLabs, on some of the modules."""
    kind = draw.choice(("peft", "diffusers", "kohya", "header", "loha", "xlabs"))
    header: dict[str, Any] = {}
    data = bytearray()

    def add(name: str, *shape: int) -> None:
        size = math.prod(shape)
        values = struct.pack(f"<{size}f", *(draw.uniform(-1, 1) for _ in range(size)))
        header[name] = {"dtype": "F32", "shape": list(shape), "data_offsets": [len(data), len(data) + len(values)]}
        data.extend(values)

    modules = XLABS if kind == "xlabs" else MODULES
    for module in draw.sample(list(modules), draw.randint(1, 3)):
        rows, columns = modules[module]
        flat = "lora_unet_" + module.replace(".", "_")
        if kind == "loha":
            for part, shape in (
                ("w1_a", (rows, RANK)),
                ("w1_b", (RANK, columns)),
                ("w2_a", (rows, RANK)),
                ("w2_b", (RANK, columns)),
            ):
                add(f"{flat}.hada_{part}", *shape)
        else:
            prefixed = {"peft": f"base_model.model.{module}", "diffusers": f"transformer.{module}", "xlabs": module}
            name = prefixed.get(kind, flat)
            down, up = {"kohya": ("lora_down", "lora_up"), "xlabs": ("down", "up")}.get(kind, ("lora_A", "lora_B"))
            add(f"{name}.{down}.weight", RANK, columns)
            add(f"{name}.{up}.weight", rows, RANK)
        if kind in ("kohya", "loha"):
            add(f"{flat}.alpha")
            data[-4:] = struct.pack("<f", ALPHA)
    if kind == "diffusers":
        header["__metadata__"] = {
            "lora_adapter_metadata": json.dumps({"transformer.r": RANK, "transformer.lora_alpha": ALPHA})
        }
    if kind == "header":
        header["__metadata__"] = {"ss_network_dim": str(RANK), "ss_network_alpha": str(ALPHA)}
    configs = (
        {"adapter_config.json": json.dumps({"peft_type": "LORA", "r": RANK, "lora_alpha": ALPHA})}
        if kind == "peft"
        else {"rl_config.json": json.dumps({"rank": RANK, "alpha": ALPHA})}
        if kind == "xlabs"
        else {}
    )
    return File(header, data, configs)


def tensors(file: File) -> list[str]:
    return [name for name in file.header if name != "__metadata__"]


def rename(draw: random.Random, file: File) -> None:
    """One key with a character, a part or a prefix more, less or other."""
    name = draw.choice(tensors(file))
    parts = name.split(".")
    at = draw.randrange(len(parts))
    change = draw.choice(
        (
            lambda: parts.__delitem__(at),
            lambda: parts.insert(
                at, draw.choice(("default", "old", "weight", "", "lora_A", "0", "\u00e9", "_orig_mod"))
            ),
            lambda: parts.__setitem__(at, parts[at][1:] + draw.choice("aA0_./\\ ")),
            lambda: parts.insert(
                0,
                draw.choice(
                    (
                        "base_model.model",
                        "transformer",
                        "unet",
                        "text_encoder",
                        "lora_te1_x",
                        "transformer_2",
                        "." * 50,
                        "transformer." * 100,
                        "module",
                        "_orig_mod",
                        "pipe.dit",
                        "\ud800",
                    )
                ),
            ),
        )
    )
    change()
    new = ".".join(parts)
    file.header = {new if key == name else key: value for key, value in file.header.items()}


def reshape(draw: random.Random, file: File) -> None:
    entry = file.header[draw.choice(tensors(file))]
    shape = entry["shape"]
    entry["shape"] = draw.choice(
        (shape[::-1], shape[1:], [1, *shape], [*shape, 1], [math.prod(shape)], [0], [-1], [2**62, 2**62], "8")
    )


def retype(draw: random.Random, file: File) -> None:
    entry = file.header[draw.choice(tensors(file))]
    entry["dtype"] = draw.choice(
        ("F64", "F16", "BF16", "I32", "I64", "U8", "BOOL", "F8_E4M3", "C64", "F4", "", None, 3)
    )
    if draw.random() < 0.5:
        width = {"F64": 8, "I64": 8, "F16": 2, "BF16": 2, "C64": 8}.get(entry["dtype"], 1)
        size = math.prod(entry["shape"]) if all(isinstance(n, int) for n in entry["shape"]) else 1
        entry["data_offsets"][1] = entry["data_offsets"][0] + size * width


def shift(draw: random.Random, file: File) -> None:
    offsets = file.header[draw.choice(tensors(file))]["data_offsets"]
    offsets[draw.randrange(2)] += draw.choice((-8, -4, 1, 4, 2**40))


def drop(draw: random.Random, file: File) -> None:
    """A key less, with its data or without."""
    name = draw.choice(tensors(file))
    entry = file.header.pop(name)
    start, end = entry["data_offsets"]
    if draw.random() < 0.8:
        del file.data[start:end]
        for other in tensors(file):
            offsets = file.header[other]["data_offsets"]
            if offsets[0] >= end:
                file.header[other]["data_offsets"] = [offset - (end - start) for offset in offsets]


def poison(draw: random.Random, file: File) -> None:
    at = draw.randrange(len(file.data) // 4 + 1) * 4
    file.data[at : at + 4] = draw.choice((struct.pack("<f", math.nan), struct.pack("<f", math.inf), draw.randbytes(4)))


def cut(draw: random.Random, file: File) -> None:
    if draw.random() < 0.5:
        del file.data[draw.randrange(len(file.data) + 1) :]
    else:
        file.data.extend(draw.randbytes(draw.randint(1, 40)))


VALUES = (
    None,
    True,
    "",
    "x",
    0,
    -1,
    3,
    1e308,
    math.nan,
    math.inf,
    [],
    {},
    ["to_q"],
    {"to_q": 4},
    {"(": 1},
    "(a+)+$",
    "\ud800",
    [[]],
    2**70,
    10**400,
    "z" * 100_000,
    "(?:(?:.|.)*X)",
    "a{99999999999999}",
    {"((.+))+X": 2},
    {"(" * 2000 + ")" * 2000: 2},
    {".*" * 12 + "X": 2, "\ud800": 3},
    {"^transformer_blocks\\.0\\.attn\\.to_q": 2},
    {"to_q": 10**400},
    {f"x{k}": 0 for k in range(200)},
)
FIELDS = (
    "r",
    "lora_alpha",
    "alpha_pattern",
    "rank_pattern",
    "target_modules",
    "peft_type",
    "init_lora_weights",
    "use_rslora",
    "use_dora",
    "modules_to_save",
    "lora_params",
    "layer_replication",
    "fan_in_fan_out",
)


def configure(draw: random.Random, file: File) -> None:
    """A config with an odd value, no valid JSON, of another kind, or missing."""
    name = draw.choice(CONFIGS)
    config: dict[str, Any] = {"peft_type": "LORA", "r": RANK, "lora_alpha": ALPHA}
    if name == "lora_config.json" or draw.random() < 0.1:
        config = {"lora_params": {"lora_rank": RANK, "lora_alpha": ALPHA}}
    config[draw.choice(FIELDS)] = draw.choice(VALUES)
    text = json.dumps(config)
    file.configs = draw.choice(
        (
            {},
            {name: text},
            {name: text[: -draw.randint(1, 9)]},
            {name: "[" * draw.choice((1, 5000))},
            {name: "3"},
            {name: text, "lora_config.json": text},
        )
    )
    if draw.random() < 0.3:
        file.header["__metadata__"] = {
            draw.choice(("lora_adapter_metadata", "ss_network_alpha", "network_dim", "ss_network_args")): draw.choice(
                (text, "{}", "x", "1e999", "nan", "0", "3", json.dumps({"transformer.r": 7}))
            )
        }


def wrap(draw: random.Random, file: File) -> None:
    """What training leaves in names, which changes nothing: at the head, or before any part of every key."""
    head = draw.choice(("module.", "_orig_mod.", "pipe.", "module._orig_mod."))
    mark = draw.choice(("_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module"))
    at = draw.randrange(4)

    def wrapped(name: str) -> str:
        parts = name.split(".")
        return head + ".".join([*parts[:at], mark, *parts[at:]] if at < len(parts) - 2 else parts)

    file.header = {name if name == "__metadata__" else wrapped(name): value for name, value in file.header.items()}


def ask(draw: random.Random, file: File) -> None:
    """Odd inputs of the loader."""
    file.alpha = draw.choice((0.0, 1.0, 3.5, 1e-9, -1.0, 1e300, math.nan, math.inf))
    file.adapter = draw.choice(
        ("", "default", "old", "ignore text encoder", "old, ignore text encoder", "a, b", ",", "transformer_2")
    )
    file.ending = draw.choice((".safetensors", ".safetensors", ".sft", ".pt", ".bin", "", ".gguf"))


MUTATIONS: tuple[Callable[[random.Random, File], None], ...] = (
    rename,
    reshape,
    retype,
    shift,
    drop,
    poison,
    cut,
    configure,
    wrap,
    ask,
)


def mangle(draw: random.Random, path: Path) -> None:
    """A few bytes of the written file changed, the header's length among them."""
    content = bytearray(path.read_bytes())
    for _ in range(draw.randint(1, 4)):
        content[draw.choice((draw.randrange(8), draw.randrange(len(content))))] = draw.randrange(256)
    path.write_bytes(content)


def assert_whole(file: File, path: Path, bytes_changed: bool) -> None:
    """What loaded uses every key and fits the model; its values are finite, and its scale is the one written down."""
    adapter = read_adapter(path, file.adapter, file.alpha)
    found = match(adapter, NAMES)
    assert len(found) == len(adapter.changes) > 0
    for change in found:
        rows = change.target.cut[1] if change.target.cut else change.target.shape[0]
        shape = (rows, *change.target.shape[1:])
        delta = change.term.delta(torch.ones(shape))
        assert delta.shape[0] == rows and delta.numel() == math.prod(shape) and math.isfinite(change.change.scale)
    if not bytes_changed and file.alpha and not any(isinstance(change.term, Replace) for change in found):
        ranks = {change.change.scale * rank for change in found for rank in adapter.ranks}
        assert any(math.isclose(alpha, file.alpha, rel_tol=1e-6) for alpha in ranks) or "rsLoRA" in adapter.alpha_source


def test_good_files_load(tmp_path):
    for number in range(300):
        file = random_file(random.Random(number))
        adapter = read_adapter(file.write(tmp_path))
        assert len(match(adapter, NAMES)) == len(adapter.changes)
        assert {change.scale for change in adapter.changes} == {ALPHA / RANK}


def test_wrapped_names_load_the_same(tmp_path):
    for number in range(300):
        draw = random.Random(number)
        file = random_file(draw)
        plain = [(one.target, one.term.delta()) for one in match(read_adapter(file.write(tmp_path)), NAMES)]
        if not any(name.startswith("lora_unet_") for name in tensors(file)):
            wrap(draw, file)
        found = [(one.target, one.term.delta()) for one in match(read_adapter(file.write(tmp_path)), NAMES)]
        assert [target for target, _ in plain] == [target for target, _ in found]
        assert all(torch.equal(before, after) for (_, before), (_, after) in zip(plain, found))


def one_case(number: int, folder: Path) -> str:
    """`loaded` or `refused`; any other end of the case is an error."""
    draw = random.Random(number)
    file = random_file(draw)
    for _ in range(draw.choice((1, 1, 1, 2, 3))):
        if tensors(file):
            draw.choice(MUTATIONS)(draw, file)
    path = file.write(folder)
    bytes_changed = draw.random() < 0.2
    if bytes_changed:
        mangle(draw, path)
    try:
        assert_whole(file, path, bytes_changed)
        return "loaded"
    except RLGError as error:
        assert len(str(error).encode()) < 3000, "a message nobody reads"
        return "refused"
    finally:
        path.unlink()


def pytest_generate_tests(metafunc):
    """The asked cases in tests of a thousand each, so that a timeout tells a hang from a long run."""
    if "numbers" in metafunc.fixturenames:
        first, cases = (metafunc.config.getoption(name) for name in ("--fuzz-seed", "--fuzz-cases"))
        end = first + cases
        parts = [range(start, min(start + CASES_PER_TEST, end)) for start in range(first, end, CASES_PER_TEST)]
        metafunc.parametrize("numbers", parts, ids=lambda part: f"{part.start} to {part.stop - 1}")


def test_damaged_files_load_right_or_are_refused(tmp_path, numbers):
    ends: Counter[str] = Counter()
    for number in numbers:
        try:
            ends[one_case(number, tmp_path)] += 1
        except Exception as error:
            raise AssertionError(f"case {number}: {type(error).__name__}: {error}") from error
    assert min(ends["loaded"], ends["refused"]) >= len(numbers) // 50, ends
