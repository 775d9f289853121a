"""Who may import whom: nodes -> nodes/host -> rlg_core, and only nodes/host knows ComfyUI's insides."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

PACK = Path(__file__).resolve().parents[2]
HOST_MODULES = {
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
EVERY_FILE = sorted(
    path
    for folder in ("rlg_core", "nodes", "tests", "bench", "demo", "devtools")
    for path in (PACK / folder).rglob("*.py")
) + sorted(PACK.glob("*.py"))


def files(folder: str) -> list[Path]:
    return sorted((PACK / folder).rglob("*.py"))


def imports(path: Path) -> set[str]:
    """Absolute names of all modules that the file imports, also inside functions; relative ones from the pack's root."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            names.add(_absolute(node, path) if node.level else node.module)
    return names


def _absolute(node: ast.ImportFrom, path: Path) -> str:
    package = list(path.relative_to(PACK).parts[:-1])
    package = package[: len(package) - node.level + 1]
    return "<pack>." + ".".join([*package, *(node.module or "").split(".")]).strip(".")


def top(name: str) -> str:
    return name.split(".")[0]


@pytest.mark.parametrize("path", files("rlg_core"), ids=lambda path: str(path.relative_to(PACK)))
def test_the_core_imports_no_host_and_no_nodes(path):
    found = imports(path)
    assert not {name for name in found if top(name) in HOST_MODULES}
    assert not {name for name in found if name.startswith("<pack>.") and not name.startswith("<pack>.rlg_core")}


@pytest.mark.parametrize("path", files("nodes"), ids=lambda path: str(path.relative_to(PACK)))
def test_nodes_reach_the_host_through_nodes_host(path):
    found = imports(path)
    if path.parent.name == "host":
        assert not {
            name for name in found if name.startswith("<pack>.nodes") and not name.startswith("<pack>.nodes.host")
        }
    else:
        assert not {name for name in found if top(name) in HOST_MODULES - {"comfy_api"}}
    assert not {name for name in found if top(name) == "rlg_core"}, "two copies of rlg_core: import it relatively"


def test_the_core_imports_where_there_is_no_host():
    code = (
        "import importlib, pkgutil, sys, rlg_core\n"
        "for module in pkgutil.walk_packages(rlg_core.__path__, 'rlg_core.'): importlib.import_module(module.name)\n"
        "print(sorted({name.split('.')[0] for name in sys.modules}))"
    )
    result = subprocess.run([sys.executable, "-c", code], cwd=PACK, capture_output=True, text=True, check=True)
    assert not HOST_MODULES & set(ast.literal_eval(result.stdout))


@pytest.mark.parametrize("path", EVERY_FILE, ids=lambda path: str(path.relative_to(PACK)))
def test_ascii_only(path):
    """Some Windows hosts read source as cp1252."""
    path.read_text(encoding="ascii")
