"""Who may import whom: nodes -> nodes/host -> rlg_core, one direction between the rooms of each, and no way out."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

PACK = Path(__file__).resolve().parents[2]
CORE = "errors algebra formats names rows save rewards rlg_core"
ALLOWED = {
    "errors": "",
    "algebra": "errors",
    "formats": "errors algebra",
    "names": "errors algebra formats",
    "rows": "errors algebra",
    "save": "errors algebra formats names",
    "rlg_core": "errors algebra",
    "rewards": "errors rlg_core",
    "report": CORE,
    "compat": CORE,
    "host": f"{CORE} compat",
    "models": f"{CORE} host compat",
    "run": f"{CORE} host compat models",
    "scores": f"{CORE} host compat models run",
    "nodes": f"{CORE} report host compat models run scores",
    "pack": "nodes",
}
"""Room -> the rooms that it may import besides itself."""

ROOMS = {
    **{
        f"rlg_core.{room}": room
        for room in ("errors", "algebra", "formats", "names", "rows", "save", "rewards", "report")
    },
    "rlg_core.downloads": "errors",  # words about files, which everything may use
    "rlg_core": "rlg_core",
    **{f"nodes.host.{room}": room for room in ("compat", "models", "run", "scores")},
    "nodes.host": "host",
    "nodes": "nodes",
    "": "pack",
}
"""Module -> the room that it and what lies below it are; the longest name that fits counts."""

NOT_PRODUCT = {"demo", "bench", "sweep", "tests", "devtools"}
COMFYUI = {
    "comfy",
    "comfy_api",
    "comfy_extras",
    "comfy_execution",
    "folder_paths",
    "nodes",
    "server",
    "execution",
    "app",
}
BY_STRING = {"import_module", "__import__"}
"""Functions that import what a string names."""


def files(*folders: str) -> list[Path]:
    return sorted(path for folder in folders for path in (PACK / folder).rglob("*.py"))


def name_of(path: Path) -> str:
    return str(path.relative_to(PACK))


PRODUCT = [PACK / "__init__.py", *files("nodes", "rlg_core")]
EVERY_FILE = [*files("rlg_core", "nodes", "sweep", "tests", "bench", "demo", "devtools"), *sorted(PACK.glob("*.py"))]


def imports(path: Path) -> Iterator[str]:
    """Names of all that the file imports, also inside functions and by a string; those of the pack begin with a dot."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            module = in_pack(path, node.level, node.module) if node.level else node.module
            yield from (f"{module}.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.Call) and called(node) in BY_STRING:
            yield from strings(path, node)


def in_pack(path: Path, level: int, module: str | None) -> str:
    """A relative import from the pack's root, with a dot before it."""
    folders = path.relative_to(PACK).parts[:-1]
    return "".join(f".{part}" for part in (*folders[: len(folders) - level + 1], *(module or "").split(".")) if part)


def called(node: ast.Call) -> str:
    return getattr(node.func, "attr", getattr(node.func, "id", ""))


def strings(path: Path, node: ast.Call) -> Iterator[str]:
    """What the string constants of a call name: whole names, relative ones, and the tails of f-strings."""
    for part in ast.walk(node):
        if isinstance(part, ast.Constant) and isinstance(part.value, str):
            name = part.value.lstrip(".")
            level = len(part.value) - len(name)
            yield in_pack(path, level, name) if level else name
            yield name  # after a formatted value the dot only joins


def room(name: str) -> str:
    """The room of a module, named from the pack's root."""
    return ROOMS[max((known for known in ROOMS if f"{name}.".startswith(f"{known}.") or not known), key=len)]


def room_of_file(path: Path) -> str:
    parts = path.relative_to(PACK).with_suffix("").parts
    return room(".".join(part for part in parts if part != "__init__"))


def top(name: str) -> str:
    return name.removeprefix(".").split(".")[0]


@pytest.mark.parametrize("path", PRODUCT, ids=name_of)
def test_arrows_between_rooms(path):
    own = room_of_file(path)
    reached = {name: room(name[1:]) for name in imports(path) if name.startswith(".")}
    assert not {name: other for name, other in reached.items() if other not in (own, *ALLOWED[own].split())}


@pytest.mark.parametrize("path", PRODUCT, ids=name_of)
def test_the_product_imports_nothing_that_users_do_not_get(path):
    assert not {name for name in imports(path) if top(name) in NOT_PRODUCT}


@pytest.mark.parametrize("path", PRODUCT, ids=name_of)
def test_the_product_imports_itself_relatively(path):
    """The host loads the pack under a name of its own: by an absolute one there would be a second copy."""
    assert not {name for name in imports(path) if top(name) == "rlg_core" and not name.startswith(".")}


@pytest.mark.parametrize("path", files("rlg_core"), ids=name_of)
def test_the_core_imports_no_host(path):
    assert not {name for name in imports(path) if top(name) in COMFYUI}


@pytest.mark.parametrize("path", [path for path in files("nodes") if room_of_file(path) == "nodes"], ids=name_of)
def test_nodes_reach_comfyui_through_nodes_host(path):
    found = {name for name in imports(path) if not name.startswith(".")}
    assert not {name for name in found if top(name) in COMFYUI - {"comfy_api"}}


def test_the_core_imports_where_there_is_no_host():
    code = (
        "import importlib, pkgutil, sys, rlg_core\n"
        "for module in pkgutil.walk_packages(rlg_core.__path__, 'rlg_core.'): importlib.import_module(module.name)\n"
        "print(sorted({name.split('.')[0] for name in sys.modules}))"
    )
    result = subprocess.run([sys.executable, "-c", code], cwd=PACK, capture_output=True, text=True, check=True)
    assert not COMFYUI & set(ast.literal_eval(result.stdout))


@pytest.mark.parametrize("path", EVERY_FILE, ids=name_of)
def test_ascii_only(path):
    """Some Windows hosts read source as cp1252."""
    assert path.read_bytes().isascii()
