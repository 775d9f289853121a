"""The hosts' weight names and shapes by architecture, UNets excepted, for the tests that have no host.

`python -m tests.support.host_keys` writes them anew from the ComfyUI that RLG_HOST_PATH names.
"""

from __future__ import annotations

import json
import os
from pathlib import Path

FILE = Path(__file__).with_name("host_keys.json")
Shapes = dict[str, list[int]]


def recorded() -> dict[str, Shapes]:
    """What the file has: {architecture: {name: shape}}."""
    return json.loads(FILE.read_text(encoding="utf-8"))


def main() -> None:
    from .architectures import ARCHITECTURES, UNETS
    from .host import start_host
    from .host_models import Case

    host = start_host(Path(os.environ["RLG_HOST_PATH"]))
    lines = []
    for name in sorted(ARCHITECTURES.keys() - UNETS):
        shapes = {key: list(shape) for key, shape in Case(host, name).names.shapes.items()}
        lines.append(f"{json.dumps(name)}: {json.dumps(shapes)}")
    FILE.write_text("{\n" + ",\n".join(lines) + "\n}\n", encoding="utf-8")


if __name__ == "__main__":
    main()
