"""Base and RL checkpoints from files: the diffusion model of either as the host loads it, the rest of the base only."""

from __future__ import annotations

import ast
import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path, PurePath
from typing import Any

import comfy.model_detection
import comfy.model_management
import comfy.ops
import comfy.sd
import comfy.utils
import folder_paths
import torch
from comfy.model_patcher import ModelPatcher
from torch import Tensor

from ...rlg_core.errors import AdapterError
from ...rlg_core.formats.container import SAFETENSORS, check_values, open_tensors
from .pair import QUANTISATION, UNUSED

FOLDERS = ("checkpoints", "diffusion_models")
WEIGHT_DTYPES: Mapping[str, Mapping[str, Any]] = {
    "default": {},
    "fp8_e4m3fn": {"dtype": torch.float8_e4m3fn},
    "fp8_e4m3fn_fast": {"dtype": torch.float8_e4m3fn, "fp8_optimizations": True},
    "fp8_e5m2": {"dtype": torch.float8_e5m2},
}
"""The stock UNETLoader's choices and the host's options they stand for."""
OTHER_PARTS = (
    "first_stage_model.",
    "cond_stage_model.",
    "conditioner.",
    "text_encoders.",
    "text_encoder.",
    "vae.",
    "pretransform.",
)
"""Where a checkpoint keeps VAE and text encoders. What else is there may say how the model samples (`v_pred`)."""


# Names in the loader's lists


def model_names() -> list[str]:
    """`folder/name` of every safetensors file in both folders, with `/` on every system.

    The folder's name is always there: plain names would mean another file once both folders hold it.
    """
    return sorted(
        f"{folder}/{PurePath(name.replace(chr(92), '/')).as_posix()}"
        for folder in FOLDERS
        for name in folder_paths.get_filename_list(folder)
        if PurePath(name).suffix.lower() in SAFETENSORS
    )


def model_path(name: str) -> Path:
    """The file behind a name of the list, or behind a stock loader's plain name where only one folder holds it.

    Raises `AdapterError` where there is none, or one in each folder.
    """
    name = name.replace("\\", "/")
    folder, _, rest = name.partition("/")
    found = folder_paths.get_full_path(folder, rest) if folder in FOLDERS and rest else None
    if found is not None:
        return Path(found)
    plain = {folder: path for folder in FOLDERS if (path := folder_paths.get_full_path(folder, name)) is not None}
    if len(plain) == 1:
        return Path(*plain.values())
    if plain:
        choices = " or ".join(f"{folder}/{name}" for folder in plain)
        raise AdapterError(f"{name!r} is in both folders. Choose {choices}.")
    raise AdapterError(f"{name!r}: no model of that name. Expected a file below models/{' or models/'.join(FOLDERS)}.")


def fingerprint(*names: str) -> str:
    """Changes when one of the files does: size and time of change."""
    facts = []
    for name in names:
        try:
            stat = model_path(name).stat()
            facts.append(f"{name}:{stat.st_size}:{stat.st_mtime_ns}")
        except AdapterError as error:
            facts.append(str(error))
    return " ".join(facts)


# The diffusion model of a file


def load_model(path: Path, options: Mapping[str, Any]) -> ModelPatcher:
    """The diffusion model in `path`, checked: whole, finite, and of an architecture the host knows.

    Raises `AdapterError`, naming file and key, where it is not.
    """
    file = open_tensors(path)
    for name, tensor in _of_diffusion_model(file.tensors).items():
        if tensor.dtype.is_floating_point:
            check_values(path, name, tensor)
    return reload_model(str(path), dict(options))


def reload_model(path: str, options: dict[str, Any], disable_dynamic: bool = False) -> ModelPatcher:
    """The host's `cached_patcher_init` factory: the diffusion model in `path` alone, as first loaded."""
    tensors, metadata = comfy.utils.load_torch_file(path, return_metadata=True)
    tensors = _of_diffusion_model(tensors)
    names = ", ".join(list(tensors)[:3])
    newer_host = {"disable_dynamic": True} if disable_dynamic else {}
    load = _checkpoint_model if _is_checkpoint(tensors) else _plain_model
    with _whole_weights(path):
        model = load(tensors, dict(options), metadata=metadata, **newer_host)
    if model is None:
        raise AdapterError(
            f"{path}: the host knows no diffusion model with these weights, first {names}. Expected a checkpoint or "
            "diffusion model; LoRA files belong into Load RL Adapter."
        )
    model.cached_patcher_init = (reload_model, (path, options))
    return model


def _of_diffusion_model(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """`tensors` without VAE and text encoders: mapped from the file, those are never read."""
    return {name: tensor for name, tensor in tensors.items() if not name.startswith(OTHER_PARTS)}


def _is_checkpoint(tensors: Mapping[str, Tensor]) -> bool:
    prefix = comfy.model_detection.unet_prefix_from_state_dict(tensors)
    return any(name.startswith(prefix) for name in tensors)


def _plain_model(tensors: dict[str, Tensor], options: dict[str, Any], **rest: Any) -> ModelPatcher | None:
    """The model of a file with nothing else in it, in the host's or diffusers' layout; None where unknown."""
    return comfy.sd.load_diffusion_model_state_dict(tensors, model_options=options, **rest)


def _checkpoint_model(tensors: dict[str, Tensor], options: dict[str, Any], **rest: Any) -> ModelPatcher | None:
    """A checkpoint's model, with what it says of itself beside its weights (`v_pred`); None where unknown."""
    # The host's checkpoint loader has no fp8 arithmetic to choose: give it the operations its UNETLoader would pick.
    # A quantised file has its own, which know its scales.
    quantised = any(name.endswith(QUANTISATION) for name in tensors)
    if options.pop("fp8_optimizations", False) and not quantised and comfy.model_management.supports_fp8_compute():
        options["custom_operations"] = comfy.ops.fp8_ops
    parts = {"output_vae": False, "output_clip": False}
    loaded = comfy.sd.load_state_dict_guess_config(tensors, **parts, model_options=options, **rest)
    return None if loaded is None else loaded[0]


class _MissingWeights(logging.Handler):
    """Hears the host say which weights it did not find: it goes on with whatever was in memory. A scale of a quantised
    file that is not there is 1; some weights the host never uses."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.said: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        said = record.getMessage()
        if said.startswith("unet missing:"):
            names = ast.literal_eval(said.removeprefix("unet missing:").strip())
            self.said += [name for name in names if not name.endswith(QUANTISATION) and name not in UNUSED]


@contextmanager
def _whole_weights(path: str) -> Iterator[None]:
    """Raises `AdapterError` where the host loads a model inside with weights missing, or fails on them."""
    ear, root = _MissingWeights(), logging.getLogger()
    level = root.level
    root.addHandler(ear)
    root.setLevel(min(level, logging.WARNING))
    try:
        yield
    except (KeyError, IndexError, AttributeError, TypeError, ValueError, RuntimeError) as error:
        if isinstance(error, comfy.model_management.OOM_EXCEPTION):
            raise
        reason = str(error) if isinstance(error, RuntimeError) else f"{type(error).__name__}: {error}"
        raise AdapterError(f"{path}: the host cannot load this file as a diffusion model ({reason}).") from error
    finally:
        root.setLevel(level)
        root.removeHandler(ear)
    if ear.said:
        names = ", ".join(ear.said[:5])
        raise AdapterError(
            f"{path}: {len(ear.said)} weights are missing, first {names}. The file is not whole; download or save it again."
        )


# CLIP and VAE of the base


class AbsentPartError(AdapterError, AttributeError):
    """Something was asked of a CLIP or VAE that the file does not hold; also Python's error for an attribute."""


class AbsentPart:
    """Stands for a CLIP or VAE that the base file does not hold: any use says so."""

    def __init__(self, part: str, path: Path, remedy: str):
        self.message = f"{path.name} holds no {part}. {remedy}"

    def __getattr__(self, name: str) -> Any:
        raise AbsentPartError(self.message)


def load_parts(path: Path) -> tuple[Any, Any]:
    """CLIP and VAE of the base file."""
    clip = vae = None
    if any(name.startswith(OTHER_PARTS) for name in open_tensors(path).tensors):
        _, clip, vae, _ = comfy.sd.load_checkpoint_guess_config(
            str(path), embedding_directory=folder_paths.get_folder_paths("embeddings"), output_model=False
        )
    if clip is None:
        clip = AbsentPart("text encoder", path, "Load one with Load CLIP and connect that instead.")
    if vae is None or vae.first_stage_model is None:
        vae = AbsentPart("VAE", path, "Load one with Load VAE and connect that instead.")
    return clip, vae


# One copy of what both files hold


def share_identical(base: ModelPatcher, rl: ModelPatcher) -> tuple[int, int]:
    """Has `rl`'s weights that are `base`'s to the bit use its memory; bytes shared and bytes in all.

    Only the memory is shared, not the parameter: the host moves and patches either model by itself, putting new memory
    in place of the old. Nothing is shared of models that the host streams from their files or keeps on a GPU.
    """
    weights = dict(base.model.diffusion_model.named_parameters())
    shared = total = 0
    for name, weight in rl.model.diffusion_model.named_parameters():
        total += weight.nbytes
        if not _is_streamed(rl) and name in weights and _same_bits(weight.data, weights[name].data):
            weight.data = weights[name].data
            shared += weight.nbytes
    return shared, total


def _is_streamed(model: ModelPatcher) -> bool:
    """Whether the host keeps weights in their files (dynamic VRAM, not on 0.3.75)."""
    return getattr(model, "is_dynamic", bool)()


def _same_bits(a: Tensor, b: Tensor) -> bool:
    if type(a) is not Tensor or type(b) is not Tensor or a.device.type != "cpu" or b.device.type != "cpu":
        return False
    if a.shape != b.shape or a.dtype != b.dtype or not (a.is_contiguous() and b.is_contiguous()):
        return False
    return torch.equal(a.reshape(-1).view(torch.uint8), b.reshape(-1).view(torch.uint8))
