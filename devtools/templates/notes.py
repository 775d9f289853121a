"""The note of a template: which files go where, what to set, what to expect, and where the numbers come from.

Each is a Markdown file in `notes`, a line for a paragraph, with two places to be filled.
"""

from pathlib import Path

from .files import File

FOLDER = Path(__file__).with_name("notes")
NOT_RUN = (
    "Nobody has run this graph with the real weights: its loaders, names and wiring are tested with small random "
    "weights in the same layouts."
)


def text(name: str, files: list[File]) -> str:
    """The note of the template of that name, as the editor shows it."""
    written = (FOLDER / f"{name}.md").read_text(encoding="utf-8")
    return written.replace("{files}", "\n".join(map(line, files))).replace("{not run}", NOT_RUN)


def line(file: File) -> str:
    """A file with its link and its folder."""
    renamed = file.name.rpartition("/")[2] != file.path.rpartition("/")[2]
    hint = f" (downloads as `{file.path.rpartition('/')[2]}`: rename it)" if renamed else ""
    return f"- `{file.directory}`: [{file.name}]({file.url}){hint}"
