"""Text that changes when a file changes, so that the host runs a loader again, and not otherwise.

The host writes it into every picture that it saves, so it is a hash: no picture tells where its maker keeps models.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from pathlib import Path

from ....rlg_core.errors import RLGError
from ....rlg_core.formats import adapter_configs, named_adapters
from .files import (
    ADAPTERS,
    MODELS,
    NO_FOLDER,
    adapter_path,
    folder_files,
    model_path,
    reward_folder,
    reward_folders,
)

BEGINNING = 2**20
"""How much of a file is hashed: a safetensors file begins with its header, and a config is smaller."""


def adapter_fingerprint(name: str | None) -> str:
    """Changes when the adapter or a config beside it changes. A linked name (None) is unknown yet: any adapter may."""
    if name is None:
        return _hash(_states(folder_files(ADAPTERS)))
    try:
        path = adapter_path(name)
    except RLGError as error:
        return _hash(str(error))
    adapters = [path] if path.is_file() else list(named_adapters(path).values())
    return _hash(_facts([*adapters, *(config for adapter in adapters for config in adapter_configs(adapter))]))


def model_fingerprint(*names: str | None) -> str:
    """Changes when one of the models changes. Linked names (None) are not known yet: any model may."""
    if None in names:
        return _hash(_states(file for folder in MODELS for file in folder_files(folder)))
    facts = []
    for name in names:
        try:
            path = model_path(name)
            facts.append(_facts([path] if path.is_file() else sorted(path.iterdir())))
        except RLGError as error:
            facts.append(str(error))
    return _hash(" ".join(facts))


def reward_fingerprint(name: str | None) -> str:
    """Changes when a file in the model folder changes. A linked name (None) is not known yet: any folder may."""
    if name is None:
        return " ".join(reward_fingerprint(folder) for folder in reward_folders())
    if name not in reward_folders() or name == NO_FOLDER:
        return str(name)
    return _hash(_facts(sorted(path for path in reward_folder(name).rglob("*") if path.is_file())))


def _hash(text: str) -> str:
    return hashlib.blake2b(text.encode(errors="surrogatepass"), digest_size=16).hexdigest()


def _states(files: Iterable[Path]) -> str:
    return " ".join(map(_state, files))


def _facts(files: Iterable[Path]) -> str:
    return " ".join(f"{_state(file)}:{_beginning(file)}" for file in files)


def _state(file: Path) -> str:
    """Which file it is and when it changed; tools may keep its size and its time of modification."""
    try:
        state = file.stat()
    except OSError as error:
        return f"{file}:{error.errno}"
    return f"{file}:{state.st_size}:{state.st_mtime_ns}:{state.st_ctime_ns}:{state.st_ino}"


def _beginning(file: Path) -> str:
    try:
        with file.open("rb") as opened:
            return hashlib.blake2b(opened.read(BEGINNING), digest_size=8).hexdigest()
    except OSError as error:
        return str(error.errno)
