"""What a failed download leaves under the name of a file, told by how it begins."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple


class Impostor(NamedTuple):
    """How a file begins that is another than its name says, what it is, and what to do."""

    beginnings: tuple[bytes, ...]
    what: str
    advice: str


LFS_POINTER = Impostor(
    (b"version https://git-lfs",),
    "a Git LFS pointer",
    "Download the file from the model's page, or run `git lfs pull` in its repository.",
)
WEB_PAGE = Impostor(
    (b"<!doctype", b"<html", b"<?xml"),
    "a web page",
    "Download it again by the download button of the model's page. If the page asks you to log in or to accept terms, "
    "do that first.",
)
ZIP = Impostor(
    (b"pk\x03\x04",),
    "a zip archive, or a PyTorch file,",
    "Unpack it if it is an archive. A PyTorch file (.pt) has to be converted to .safetensors.",
)
GGUF = Impostor((b"gguf",), "a GGUF file", "Load it with the loader of ComfyUI-GGUF.")
DOWNLOADS = (LFS_POINTER, WEB_PAGE)
"""No file of a model, of whatever kind."""

LONGEST = 64
"""How many bytes of a file are looked at."""


def impostor(path: Path, kinds: tuple[Impostor, ...] = (*DOWNLOADS, ZIP, GGUF)) -> str | None:
    """What `path` is instead of the file that its name says, and what to do; None if it is nothing of that kind."""
    with path.open("rb") as file:
        beginning = file.read(LONGEST).lstrip().lower()
    found = next((found for found in kinds if beginning.startswith(found.beginnings)), None)
    if found is None:
        return None
    return f"this is {found.what} of {path.stat().st_size} bytes, not the file itself. {found.advice}"
