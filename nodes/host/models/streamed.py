"""Models whose weights stay in their files: the host's own structure without values, and one weight at a time."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import comfy.model_detection
import comfy.model_management
import comfy.utils
import torch
from comfy.model_patcher import ModelPatcher
from torch import Tensor

from ....rlg_core.formats import OpenModel, open_model
from ....rlg_core.formats.container import check_values
from ....rlg_core.lowrank import rounding_energy
from ....rlg_core.recording import Recording
from ..compat import filled, held_in_layers, is_quantised, unpatched_weight
from .adapters import PREFIX
from .checkpoints import checkpoint_prefix, of_diffusion_model, unknown_model, whole_weights
from .sides import Pieces

META = torch.device("meta")
Tensors = dict[str, Tensor]


@dataclass(frozen=True)
class Source:
    """A tensor of an open file. Called, it is read."""

    file: OpenModel
    name: str

    def __call__(self) -> Tensor:
        return self.file.read(self.name)


class StreamedModel:
    """A model in an open file: `model`, the host's, has no values; `tensors` are its own, by the host's names.

    Those of one dimension have values, as the host reads settings off some and all of them together are small. The
    others are made of the file's when they are asked for, by what `recording` has seen the host do to their names and
    layout.
    """

    def __init__(
        self, path: Path, model: ModelPatcher, tensors: Tensors, recording: Recording, sources: dict[int, Source]
    ):
        self.path, self.model, self.tensors = path, model, tensors
        self.recording, self.sources = recording, sources

    def weight(self, key: str) -> Tensor:
        """The weight `key` of the model, dequantised, in float32 on the device the model computes on.

        Raises `AdapterError` if it has values that are not finite.
        """
        module = key.rpartition(".")[0]
        prefix = f"{module}.".removeprefix(PREFIX)
        own = {name for name in self.tensors if name.startswith(prefix) and "." not in name[len(prefix) :]}
        with filled(self.model.model.get_submodule(module), {name: self.read(name) for name in own}, prefix):
            weight = unpatched_weight(self.model, key)
        check_values(self.path, key.removeprefix(PREFIX), weight)
        return weight

    def rounding(self, key: str) -> float:
        """The squared norm of what rounding took from the weight `key`."""
        return rounding_energy(self.weight(key))

    def read(self, name: str) -> Tensor:
        """One of the model's tensors as the file holds it, in the host's layout."""
        return self.recording.value(self.tensors[name], self.sources)

    def pieces(self, name: str, size: int) -> Iterable[Tensor]:
        """The same, flat, `size` numbers at a time; what the host only renames is never held whole."""
        tensor = self.tensors[name]
        source = self.sources.get(id(tensor))
        if source and tensor.is_meta and self.recording.is_untouched(tensor):
            return source.file.pieces(source.name, size)
        return self.read(name).flatten().split(size)

    def buffers(self) -> dict[str, Pieces]:
        """What the file holds of the network's buffers, by name."""
        names = [name for name, _ in self.model.model.diffusion_model.named_buffers() if name in self.tensors]
        return {name: partial(self.pieces, name) for name in names}

    def dtypes(self, name: str) -> list[torch.dtype]:
        """The dtype of the buffer `name` in the file."""
        return [self.tensors[name].dtype]


@contextmanager
def streamed(path: Path) -> Iterator[StreamedModel]:
    """Opens the model in `path`, a file or a folder in parts.

    Raises `AdapterError`, naming file and key, unless it is whole and of an architecture the host knows.
    """
    with open_model(path) as file:
        names = of_diffusion_model(path, {name: name for name in file.places}, file.metadata)
        tensors = {name: _blank(file, source) for name, source in names.items()}
        sources = {id(tensors[name]): Source(file, source) for name, source in names.items()}
        with whole_weights(str(path)):
            model, converted, recording = _structure(path, tensors, file.metadata)
        yield StreamedModel(path, model, converted, recording, sources)


def _blank(file: OpenModel, name: str) -> Tensor:
    blank = file.blank(name)
    return file.read(name) if blank.ndim <= 1 else blank


def _structure(path: Path, tensors: Tensors, metadata: Mapping[str, str]) -> tuple[ModelPatcher, Tensors, Recording]:
    """The host's model for `tensors`, these in its layout, and how they came into it.

    It takes the steps of the host's loaders (`load_diffusion_model_state_dict`, `load_state_dict_guess_config`), with
    the network on the meta device.
    """
    prefix = checkpoint_prefix(tensors)
    tensors = {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}
    with Recording() as recording:
        tensors, metadata = held_in_layers(tensors, dict(metadata))
        first = ", ".join(list(tensors)[:3])
        config, tensors = _detected(tensors, metadata)
    if config is None:
        raise unknown_model(str(path), first)
    _set_dtypes(config, tensors)
    network = config.get_model(dict(tensors), "", device=META)
    network.diffusion_model.requires_grad_(False).to(META)  # some make parameters without asking for the device
    with recording:
        converted = dict(config.process_unet_state_dict(dict(tensors)))
    blank = {name: value.to(META) if value.is_floating_point() else value for name, value in tensors.items()}
    network.load_model_weights(blank, "")
    device = comfy.model_management.get_torch_device()
    return ModelPatcher(network, load_device=device, offload_device=META), converted, recording


def _detected(tensors: Tensors, metadata: dict[str, str]) -> tuple[Any, Tensors]:
    """The host's config for `tensors` in any layout that it loads, or None, and the tensors under its own names."""
    config = comfy.model_detection.model_config_from_unet(tensors, "", metadata=metadata)
    if config is not None:
        return config, tensors
    converted = comfy.model_detection.convert_diffusers_mmdit(dict(tensors), "")
    if converted is not None:
        return comfy.model_detection.model_config_from_unet(converted, ""), converted
    config = comfy.model_detection.model_config_from_diffusers_unet(tensors)
    if config is None:
        return None, tensors
    names = comfy.utils.unet_to_diffusers(config.unet_config)
    return config, {names[name]: value for name, value in tensors.items() if name in names}


def _set_dtypes(config: Any, tensors: Tensors) -> None:
    """Gives `config` the dtypes with which the host would load and run the model."""
    management, supported = comfy.model_management, list(config.supported_inference_dtypes)
    stored = None if is_quantised(config) else comfy.utils.weight_dtype(tensors)
    size = comfy.utils.calculate_parameters(tensors)
    dtype = management.unet_dtype(model_params=size, supported_dtypes=supported, weight_dtype=stored)
    own = None if is_quantised(config) else dtype
    computed = management.unet_manual_cast(own, management.get_torch_device(), supported)
    config.set_inference_dtype(dtype, computed)
