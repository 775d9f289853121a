"""Where things lie: the repository, the private folder, and the link that gives the pack its name."""

import os
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
HOME = Path(os.environ.get("RLG_HOME") or ROOT / ".rlg").resolve()
PACK = "ComfyUI-RLG"


def link_folder(target, at):
    """Make `at` show the folder `target`: a symbolic link, or a junction where Windows allows no links."""
    if at.exists() and at.resolve() == target.resolve():
        return
    at.parent.mkdir(parents=True, exist_ok=True)
    if at.is_symlink():
        at.unlink()
    try:
        os.symlink(target, at, target_is_directory=True)
    except OSError:
        if sys.platform != "win32":
            raise
        import _winapi

        _winapi.CreateJunction(str(target), str(at))
