"""Files from strangers run no code, open no connection, and are bounded; the promise is in SECURITY.md."""

from __future__ import annotations

import ast
import json
import pickle
import socket
import struct
import tracemalloc
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from rlg_core.errors import RLGError
from rlg_core.formats import read_adapter
from rlg_core.rewards import KINDS, load_reward
from rlg_core.rewards.clip import load_clip
from rlg_core.rewards.hps import converted
from rlg_core.rewards.image_reward import _count

PACK = Path(__file__).resolve().parents[2]
PRODUCT = [PACK / "__init__.py", *sorted(PACK.glob("nodes/**/*.py")), *sorted(PACK.glob("rlg_core/**/*.py"))]
NEVER_CALLED = {"eval", "exec", "compile", "__import__", "open_code", "os.system", "os.popen", "os.execv", "os.spawnv"}
NEVER_IMPORTED = {
    *("pickle", "marshal", "shelve", "dill", "joblib", "subprocess", "ctypes", "multiprocessing"),
    *("socket", "ssl", "http", "urllib", "requests", "aiohttp", "huggingface_hub", "ftplib", "smtplib"),
}


# What the code itself says


def nodes_of(path: Path, kind: type) -> Iterator[ast.AST]:
    return (node for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))) if isinstance(node, kind))


def called(node: ast.Call) -> str:
    """The name of a called function, with its module's or object's before it."""
    if isinstance(node.func, ast.Attribute):
        return f"{getattr(node.func.value, 'id', '')}.{node.func.attr}"
    return getattr(node.func, "id", "")


def options(node: ast.Call) -> dict[str, object]:
    return {one.arg: getattr(one.value, "value", None) for one in node.keywords}


@pytest.mark.parametrize("path", PRODUCT, ids=lambda path: str(path.relative_to(PACK)))
def test_the_product_runs_no_text_and_opens_no_connection(path):
    calls = list(nodes_of(path, ast.Call))
    assert not {called(node) for node in calls} & NEVER_CALLED
    names = [alias.name for node in nodes_of(path, ast.Import) for alias in node.names]
    names += [node.module or "" for node in nodes_of(path, ast.ImportFrom) if not node.level]
    assert not {name.split(".")[0] for name in names} & NEVER_IMPORTED
    for node in calls:
        if called(node) == "torch.load":
            assert options(node).get("weights_only") is True
        if called(node).endswith(".from_pretrained"):
            assert options(node).get("local_files_only") is True
            assert "trust_remote_code" not in options(node)


# Reward folders


class Canary:
    """Writes a file when it is unpickled."""

    def __init__(self, path: Path):
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


PICKLED = {
    "CLIP score": "pytorch_model.bin",
    "PickScore": "pytorch_model.bin",
    "HPSv2.1": "HPS_v2.1_compressed.pt",
    "ImageReward": "ImageReward.pt",
    "LAION aesthetic": "sac+logos+ava1-l14-linearMSE.pth",
}


def clip_config(folder: Path, **changes: object) -> Path:
    """A folder with the config of a tiny CLIP."""
    sizes = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1, "num_attention_heads": 2}
    text, vision = {"vocab_size": 20, **sizes}, {"image_size": 28, "patch_size": 14, **sizes}
    config = {"model_type": "clip", "projection_dim": 8, "text_config": text, "vision_config": vision}
    (folder / "config.json").write_text(json.dumps(config | changes), encoding="utf-8")
    return folder


@pytest.fixture
def clip_folder(tmp_path):
    from transformers import CLIPConfig, CLIPModel

    clip_config(tmp_path)
    CLIPModel(CLIPConfig.from_pretrained(tmp_path)).save_pretrained(tmp_path)
    return tmp_path


@pytest.mark.parametrize("form", ["torch", "legacy", "plain"])
@pytest.mark.parametrize("name", PICKLED)
def test_a_pickle_in_a_reward_folder_runs_nothing(tmp_path, name, form):
    clip_config(tmp_path)
    (tmp_path / "vocab.txt").write_text("a\n")
    (tmp_path / "med_config.json").write_text("{}")
    canary, path = tmp_path / "canary", tmp_path / PICKLED[name]
    if form == "plain":
        path.write_bytes(pickle.dumps(Canary(canary)))
    else:
        torch.save({"a": Canary(canary)}, path, _use_new_zipfile_serialization=form == "torch")
    with pytest.raises(RLGError, match=f"{name} cannot be loaded"):
        load_reward(name, tmp_path, tmp_path)
    assert not canary.exists()


@pytest.mark.parametrize("name", PICKLED)
def test_a_pointer_of_git_is_told(tmp_path, name):
    (clip_config(tmp_path) / PICKLED[name]).write_text(
        "version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n"
    )
    with pytest.raises(RLGError, match="Git LFS pointer"):
        load_reward(name, tmp_path, tmp_path)


def test_every_reward_with_a_folder_is_tried():
    assert PICKLED.keys() == {name for name, kind in KINDS.items() if kind.needs_folder}


def test_code_beside_a_model_is_never_run(clip_folder, monkeypatch):
    """`auto_map` names code of the folder's own; nothing is looked up elsewhere either."""
    canary = clip_folder / "canary"
    (clip_folder / "own.py").write_text(f"import pathlib; pathlib.Path({str(canary)!r}).touch()\nclass Own: pass\n")
    config = json.loads((clip_folder / "config.json").read_text(encoding="utf-8"))
    config["auto_map"] = {name: f"own.{name}" for name in ("AutoConfig", "AutoModel", "AutoTokenizer")}
    config["architectures"] = ["Own"]
    (clip_folder / "config.json").write_text(json.dumps(config), encoding="utf-8")

    def connect(*_):
        raise AssertionError("a connection")

    monkeypatch.setattr(socket.socket, "connect", connect)
    assert type(load_clip(clip_folder)).__name__ == "CLIPModel"
    assert not canary.exists()


@pytest.mark.parametrize(
    "changes",
    [
        {"text_config": {"num_hidden_layers": 10**9}},
        {"vision_config": {"image_size": 10**6}},
        {"text_config": {"max_position_embeddings": 10**9}},
        {"num_hidden_layers": 10**9},
        {"text_config": {"num_hidden_layers": "x"}},
        {"padding": "x" * 2**20},
    ],
    ids=lambda changes: str(changes)[:40],
)
def test_configs_that_ask_for_too_much(tmp_path, changes):
    save_file({"a": torch.ones(1)}, clip_config(tmp_path, **changes) / "model.safetensors")
    with pytest.raises(RLGError, match=r"config\.json: .*expected a"):
        load_clip(tmp_path)


@pytest.mark.parametrize("text", ["[" * 100_000, "{", "3", "\ud800", '{"a": ' + "9" * 5000 + "}"], ids=lambda t: t[:8])
def test_configs_that_are_none(tmp_path, text):
    save_file({"a": torch.ones(1)}, tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_bytes(text.encode("utf-8", "surrogatepass"))
    with pytest.raises(RLGError, match=r"config\.json"):
        load_clip(tmp_path)


def test_one_name_asks_for_one_layer():
    """Not for all that its number counts."""
    from rlg_core.rewards.hps import _layers

    assert _layers(converted({"transformer.resblocks.999999999.ln_1.weight": torch.ones(1)}), "text_model") == 1
    assert _count({"blocks.999999999.x": torch.ones(1), "blocks.0.x": torch.ones(1)}, "blocks") == 2


# Adapters


def test_a_large_header_costs_a_bounded_amount(tmp_path):
    """Many entries in Python take more than their text, but only so much."""
    entry = '"%07d":{"dtype":"F32","shape":[],"data_offsets":[0,0]},'
    body = "".join(entry % k for k in range(100_000)).encode()
    header = b"{" + body[:-1] + b"}"
    path = tmp_path / "x.safetensors"
    path.write_bytes(struct.pack("<Q", len(header)) + header)
    tracemalloc.start()
    with pytest.raises(RLGError):
        read_adapter(path)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 20 * len(header), f"{peak / len(header):.1f} times the header"


def test_a_length_is_not_believed(tmp_path):
    """A header that claims more bytes than the file has is not read."""
    for length in (2**63, 2**40, 33 * 2**20):
        path = tmp_path / "x.safetensors"
        path.write_bytes(struct.pack("<Q", length) + b"{}")
        tracemalloc.start()
        with pytest.raises(RLGError, match="header would have"):
            read_adapter(path)
        assert tracemalloc.get_traced_memory()[1] < 2**20
        tracemalloc.stop()
