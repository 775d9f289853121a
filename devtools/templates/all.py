"""Every template, and the files that they become."""

import json
import re
from typing import Any

from .. import hosts
from ..paths import ROOT
from . import demo, stable_diffusion, transformers, wan
from .api import to_api
from .editor import to_editor
from .graph import Workflow
from .schema import kinds

TEMPLATES: tuple[Workflow, ...] = tuple(
    declared() for family in (demo, stable_diffusion, transformers, wan) for declared in family.TEMPLATES
)


def written(told: dict[str, Any]) -> dict[str, str]:
    """{path below the repository: content} of all files, from what the oldest supported ComfyUI tells of its nodes."""
    known = kinds(told)
    pack = re.search(r'^version = "(.+)"', (ROOT / "pyproject.toml").read_text(encoding="utf-8"), re.MULTILINE)
    files = {}
    for workflow in TEMPLATES:
        graph = to_editor(workflow, known, hosts.OLDEST.version, pack.group(1))
        files[f"workflows/{workflow.name}.json"] = json.dumps(graph) + "\n"
        files[f"workflows/api/{workflow.name}.json"] = json.dumps(to_api(workflow, known), indent=2) + "\n"
    return files
