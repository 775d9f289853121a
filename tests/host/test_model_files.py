"""Names and files as people have them: prefixes, parts, links, odd names, swaps, and linked inputs."""

from __future__ import annotations

import asyncio
import json
import ntpath
import os
import posixpath
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from support import tiny
from support.guiding import run_node
from support.tensors import cloned

pytestmark = pytest.mark.usefixtures("inference_mode")


@pytest.fixture
def folders(host, tmp_path) -> dict[str, Path]:
    """The host's model folders, each with one of the test's own, and lists that are read anew."""
    kinds = ("checkpoints", "diffusion_models", "loras", "rlg_rewards")
    before = {kind: list(host.folder_paths.get_folder_paths(kind)) for kind in kinds}
    for kind in kinds:
        (tmp_path / kind).mkdir()
        host.folder_paths.add_model_folder_path(kind, str(tmp_path / kind), is_default=True)
    host.folder_paths.filename_list_cache.clear()
    yield {kind: tmp_path / kind for kind in kinds}
    for kind, paths in before.items():
        host.folder_paths.folder_names_and_paths[kind][0][:] = paths
    host.folder_paths.filename_list_cache.clear()


@pytest.fixture
def files(host):
    return host.module("nodes.host.models.files")


@pytest.fixture(scope="module")
def weights() -> dict[str, torch.Tensor]:
    return cloned(tiny.sd3_transformer().state_dict())


def loaded(host, path: Path) -> dict[str, torch.Tensor]:
    return tiny.weights_of(host.module("nodes.host.models.checkpoints").load_model(path, {}))


def assert_same(found, expected) -> None:
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], value) for name, value in expected.items())


# Prefixes that training leaves


@pytest.mark.parametrize(
    "old, new",
    [
        ("", "module."),
        ("", "_orig_mod."),
        ("", "_fsdp_wrapped_module."),
        ("", "module._orig_mod."),
        ("", "dit."),
        ("", "pipe.dit."),
        ("transformer_blocks.0.", "transformer_blocks.0._checkpoint_wrapped_module."),
    ],
)
def test_prefixes_that_training_leaves(host, folders, weights, old, new):
    path = folders["diffusion_models"] / "wrapped.safetensors"
    renamed = {name.replace(old, new, 1): value for name, value in weights.items()}
    if new.startswith("pipe."):
        renamed["pipe.vae.decoder.conv_in.weight"] = torch.full((2,), float("nan"))
    save_file(renamed, path)
    assert_same(loaded(host, path), tiny.weights_of(tiny.load_weights(host, weights)))


def test_two_tensors_of_one_name_are_refused(host, folders, weights):
    path = folders["diffusion_models"] / "twice.safetensors"
    save_file(weights | {"_orig_mod.proj_out.bias": weights["proj_out.bias"] + 1}, path)
    with pytest.raises(ValueError, match="several of its tensors have one name"):
        loaded(host, path)


# Parts


@pytest.fixture
def parts(folders, weights) -> Path:
    """A model in three parts with their index, as diffusers saves large ones."""
    folder = folders["diffusion_models"] / "rl" / "transformer"
    folder.mkdir(parents=True)
    names, index = list(weights), {}
    for part in range(3):
        file = f"diffusion_pytorch_model-{part + 1:05}-of-00003.safetensors"
        save_file({name: weights[name] for name in names[part::3]}, folder / file)
        index |= dict.fromkeys(names[part::3], file)
    (folder / "diffusion_pytorch_model.safetensors.index.json").write_text(json.dumps({"weight_map": index}))
    return folder


def test_a_model_in_parts_is_one_model(host, files, folders, weights, parts):
    save_file(weights, folders["diffusion_models"] / "base.safetensors")
    listed = files.model_names()
    assert listed.count("diffusion_models/rl/transformer") == 1
    assert not any("-of-00003" in name for name in listed)
    inputs = dict(weight_dtype="default", compress="off", rank=4)
    names = {"base_name": "diffusion_models/base.safetensors", "rl_name": "diffusion_models/rl/transformer"}
    model, rl_model, *_, report = run_node(host, "RLGCheckpointPairLoader", **names, **inputs)
    assert_same(tiny.weights_of(rl_model), tiny.weights_of(model))
    assert "Both files hold the same weights" in report
    factory, arguments = rl_model.cached_patcher_init
    assert_same(tiny.weights_of(factory(*arguments)), tiny.weights_of(model))


def test_the_fingerprint_follows_every_part(host, parts):
    node = host.classes["RLGCheckpointPairLoader"]
    seen = [node.fingerprint_inputs("diffusion_models/rl/transformer", "x")]
    for file in sorted(parts.iterdir()):
        file.write_bytes(file.read_bytes())
        seen.append(node.fingerprint_inputs("diffusion_models/rl/transformer", "x"))
    assert len({*seen}) == len(seen)


def remove_a_part(folder):
    next(folder.glob("*-00002-*")).unlink()


def second_index(folder):
    (folder / "diffusion_pytorch_model.fp16.safetensors.index.json").write_text("{}")


def index_that_leaves(folder):
    change_index(folder, lambda index: index | {"x": "../../secret.safetensors"})


def index_of_more(folder):
    change_index(folder, lambda index: index | {"x": next(iter(index.values()))})


def index_of_nothing(folder):
    change_index(folder, lambda index: {})


def change_index(folder, change):
    path = next(folder.glob("*.index.json"))
    path.write_text(json.dumps({"weight_map": change(json.loads(path.read_text())["weight_map"])}))


@pytest.mark.parametrize(
    "harm, message",
    [
        (remove_a_part, r"1 of its 3 parts are missing, first diffusion_pytorch_model-00002-of-00003"),
        (second_index, r"expected one \.index\.json in the folder, found .*fp16"),
        (index_that_leaves, r"expected a \.safetensors file beside it, got '\.\./\.\./secret"),
        (index_of_more, r"the index and the parts do not agree on the weights \(x is in none\)"),
        (index_of_nothing, r"expected a weight_map"),
    ],
)
def test_parts_that_do_not_make_a_model(host, parts, harm, message):
    harm(parts)
    with pytest.raises(ValueError, match=message):
        loaded(host, parts)


def test_one_part_alone_says_what_to_do(host, parts):
    with pytest.raises(ValueError, match=r"part 2 of 3 of one model: join the shards"):
        loaded(host, next(parts.glob("*-00002-*")))


# Names and links


@pytest.mark.parametrize(
    "root, name, expected",
    [
        ("C:\\models\\loras", "sub/a.safetensors", "C:\\models\\loras\\sub\\a.safetensors"),
        ("C:\\models\\loras", "sub\\a.safetensors", "C:\\models\\loras\\sub\\a.safetensors"),
        ("C:\\models\\loras", "sub/../a.safetensors", "C:\\models\\loras\\a.safetensors"),
        ("C:\\models\\loras", "../a.safetensors", None),
        ("C:\\models\\loras", "/Users/x/a.safetensors", None),
        ("C:\\models\\loras", "D:foo/a", None),
        ("C:\\models\\loras", "D:/a", None),
        ("C:\\models\\loras", "//server/share/a", None),
        ("C:\\models\\loras", "..\\loras2\\a", None),
        ("C:\\models\\loras", ".", None),
        ("C:\\models\\loras", "", None),
    ],
)
def test_windows_names_stay_below_the_folder(files, root, name, expected):
    assert files.below(root, name, ntpath) == expected


@pytest.mark.parametrize(
    "name, expected",
    [
        ("sub/a.safetensors", "/models/loras/sub/a.safetensors"),
        ("../a.safetensors", None),
        ("../loras2/a.safetensors", None),
        ("/etc/passwd", None),
        ("C:foo/a", "/models/loras/C:foo/a"),
        ("sub/../../a", None),
    ],
)
def test_names_stay_below_the_folder(files, name, expected):
    assert files.below("/models/loras", name, posixpath) == expected


@pytest.mark.parametrize("name", ["", " ", ".", "a\0b", "\ud800", "x" * 2**20, "../a", "/etc/passwd", 5, ["1", 0], {}])
def test_odd_names_are_refused_in_our_words(host, folders, name):
    adapter, pair, reward = (host.classes[f"RLG{kind}Loader"] for kind in ("Adapter", "CheckpointPair", "Reward"))
    answers = [adapter.validate_inputs(name), pair.validate_inputs(name, name), reward.validate_inputs(name)]
    assert all("no adapter" in a or "no model" in a or "is no folder" in a for a in answers)
    assert max(map(len, answers)) < 700, answers
    assert isinstance(adapter.fingerprint_inputs(lora_name=name), str)
    assert isinstance(pair.fingerprint_inputs(name, name), str)


@pytest.mark.skipif(os.name == "nt", reason="links need a privilege there")
def test_links_out_of_the_folder_are_followed_as_the_host_does(host, files, folders, weights, tmp_path):
    (tmp_path / "elsewhere").mkdir()
    save_file(weights, tmp_path / "elsewhere" / "base.safetensors")
    for kind in ("loras", "diffusion_models"):
        (folders[kind] / "linked").symlink_to(tmp_path / "elsewhere")
        (folders[kind] / "link.safetensors").symlink_to(tmp_path / "elsewhere" / "base.safetensors")
    for name in ("link.safetensors", "linked/base.safetensors"):
        assert files.adapter_path(name).is_file()
        assert str(files.model_path(name)) == host.folder_paths.get_full_path("diffusion_models", name)


# Linked inputs


class Names:
    """A node that gives names, as those of other packs do."""

    RETURN_TYPES = ("COMBO",)
    FUNCTION = "give"

    @classmethod
    def INPUT_TYPES(cls):
        return {"required": {}}


@pytest.mark.parametrize("linked", ["lora_name", "base_name", "folder"])
def test_linked_names_pass_the_validation(host, monkeypatch, linked):
    """The host gives None for what it does not know yet; the names are checked when the node runs."""
    import execution

    monkeypatch.setitem(host.nodes.NODE_CLASS_MAPPINGS, "Names", Names)
    link, rest = ["names", 0], {"weight_dtype": "default", "compress": "off", "rank": 64}
    nodes = {
        "names": ("Names", {}),
        "base_name": ("RLGCheckpointPairLoader", {"base_name": link, "rl_name": link, **rest}),
        "lora_name": (
            "RLGAdapterLoader",
            {"model": ["base_name", 0], "lora_name": link, "strength": 1.0, "alpha": 0.0, "adapter": ""},
        ),
        "folder": ("RLGRewardLoader", {"reward": "CLIP score", "folder": link}),
    }
    prompt = {name: {"class_type": kind, "inputs": inputs} for name, (kind, inputs) in nodes.items()}
    valid, errors, _ = asyncio.run(execution.validate_inputs("prompt", prompt, linked, {}))
    assert valid, errors


def test_linked_names_are_fingerprinted_by_all_there_are(host, folders, weights):
    adapter, pair, reward = (host.classes[f"RLG{kind}Loader"] for kind in ("Adapter", "CheckpointPair", "Reward"))

    def seen():
        host.folder_paths.filename_list_cache.clear()
        return [adapter.fingerprint_inputs(None), pair.fingerprint_inputs(None, "x"), reward.fingerprint_inputs(None)]

    before = seen()
    assert before == seen()
    for kind, name in (("loras", "a.safetensors"), ("checkpoints", "b.safetensors"), ("rlg_rewards", "c/d.bin")):
        (folders[kind] / name).parent.mkdir(exist_ok=True)
        (folders[kind] / name).write_bytes(b"x")
    assert all(old != new for old, new in zip(before, seen()))


# Swaps


def test_a_swap_of_equal_size_and_time_is_noticed(host, folders):
    """In place, by renaming, and of a config, with the times put back."""
    node = host.classes["RLGAdapterLoader"]
    path, config = folders["loras"] / "a.safetensors", folders["loras"] / "a_config.json"

    def fingerprint():
        return node.fingerprint_inputs(lora_name="a.safetensors")

    def put_back(file):
        os.utime(file, ns=(10**18, 10**18))
        return fingerprint()

    save_file({"a.lora_A.weight": torch.ones(2, 4), "a.lora_B.weight": torch.ones(4, 2)}, path)
    config.write_text('{"r": 2, "lora_alpha": 4}')
    put_back(path)
    seen = [put_back(config)]
    assert seen[0] == fingerprint()
    path.write_bytes(path.read_bytes()[:-4] + b"\0\0\0\0")
    seen.append(put_back(path))
    save_file({"b.lora_A.weight": torch.ones(2, 4), "b.lora_B.weight": torch.ones(4, 2)}, path.with_suffix(".new"))
    os.utime(path.with_suffix(".new"), ns=(10**18, 10**18))
    path.with_suffix(".new").replace(path)
    seen.append(fingerprint())
    config.write_text('{"r": 2, "lora_alpha": 8}')
    seen.append(put_back(config))
    assert len({*seen}) == 4


def test_the_demos_adapters_load_by_the_names_that_0_1_0_listed(host, files, monkeypatch):
    if not files.FORMERLY.is_dir():
        pytest.skip("the demo is not here")
    known = host.folder_paths.folder_names_and_paths
    monkeypatch.setitem(known, "loras", ([str(files.FORMERLY.parent)], known["loras"][1]))  # other tests add folders
    host.folder_paths.filename_list_cache.clear()
    assert files.adapter_path("rl-brightness").samefile(files.adapter_path("rlg-demo/rl-brightness"))
    assert "rlg-demo/rl-brightness" in files.adapter_names() and "rl-brightness" not in files.adapter_names()
