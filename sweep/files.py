"""What the files that a graph names are: hashes of their content, or their sizes where only a server can see them."""

from __future__ import annotations

import hashlib
import json
import os
import sys
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from pathlib import Path, PurePosixPath

from devtools.server import Server

NO_MODELS = ("custom_nodes", "configs")


def cache() -> Path:
    """Return the folder of the hashes: in the user's own cache, which other users cannot write to."""
    name, default = ("LOCALAPPDATA", "AppData/Local") if sys.platform == "win32" else ("XDG_CACHE_HOME", ".cache")
    return Path(os.environ.get(name) or Path.home() / default) / "rlg-sweep" / "hashes"


def identities(server: Server, names: Iterable[str], inputs: Path | None) -> dict[str, str]:
    """Return {name: identity} of those names that are files of a server, or folders of files.

    `inputs` is the folder of its input pictures, None where the server is on some other machine.
    """
    if inputs is None:
        entries: dict[str, set[str]] = {}
        for entry in listed(server):
            entries.setdefault(entry["name"].replace("\\", "/"), set()).add(f"{entry['size']} bytes")
        sizes = {name: ", ".join(sorted(own)) for name, own in entries.items()}
        found = {name: told(name, sizes) for name in names}
        return {name: size for name, size in found.items() if size}
    folders = [Path(folder) for paths in model_folders(server).values() for folder in paths]
    found = {name: existing(name, [*folders, inputs]) for name in names}
    return {name: " ".join(sorted(set(map(digest, paths)))) for name, paths in found.items() if paths}


def model_folders(server: Server) -> dict[str, list[str]]:
    """Return {kind: folders} of a server's models."""
    kinds = server.get("/internal/folder_paths")
    return {kind: folders for kind, folders in kinds.items() if kind not in NO_MODELS}


def listed(server: Server) -> Iterator[dict]:
    """Yield what a server tells of its model files."""
    for kind in server.get("/experiment/models"):
        yield from server.get(f"/experiment/models/{kind['name']}")


def told(name: str, sizes: Mapping[str, str]) -> str:
    """Return the size of a file, or of each file in a folder, with its first part or without it; "" for neither."""
    for known in (name, "/".join(PurePosixPath(name).parts[1:])):
        inside = [f"{file} {size}" for file, size in sorted(sizes.items()) if known and file.startswith(f"{known}/")]
        if known in sizes or inside:
            return sizes.get(known) or ", ".join(inside)
    return ""


def existing(name: str, folders: Iterable[Path]) -> list[Path]:
    """Return the files and folders of a name below `folders`, with its first part or without it.

    Where models of two kinds share a name, only the node knows which of them it means: both count.
    """
    parts = PurePosixPath(name.replace("\\", "/")).parts
    if not parts or ".." in parts or name.startswith("/"):
        return []
    places = [folder.joinpath(*kept) for kept in (parts, parts[1:]) if kept for folder in folders]
    return [place for place in dict.fromkeys(places) if place.exists()]


def digest(path: Path) -> str:
    """Return a hash of a file's content, or of all files in a folder with their names."""
    if path.is_file():
        return remembered(path)
    inside = sorted(file for file in path.rglob("*") if file.is_file())
    told = [[file.relative_to(path).as_posix(), remembered(file)] for file in inside]
    return hashlib.sha256(json.dumps(told).encode()).hexdigest()


def remembered(path: Path) -> str:
    """Return a file's hash; on this machine it is computed once for a path, a size and times of change."""
    facts = path.stat()
    about = f"{path.resolve()} {facts.st_size} {facts.st_mtime_ns} {facts.st_ctime_ns} {facts.st_ino}"
    note = cache() / hashlib.sha256(about.encode()).hexdigest()
    if note.exists():
        return note.read_text()
    with path.open("rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    with suppress(OSError):  # who has no cache hashes again
        note.parent.mkdir(parents=True, exist_ok=True)
        partial = note.with_suffix(f".{os.getpid()}")
        partial.write_text(found)
        partial.replace(note)
    return found


def pack_version(root: Path) -> str:
    """Return a hash of the pack's Python files."""
    files = sorted(file for folder in ("nodes", "rlg_core") for file in (root / folder).rglob("*.py"))
    told = [[file.relative_to(root).as_posix(), hashlib.sha256(file.read_bytes()).hexdigest()] for file in files]
    return hashlib.sha256(json.dumps(told).encode()).hexdigest()[:16]
