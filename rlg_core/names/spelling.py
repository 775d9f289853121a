"""The ways in which adapter files spell one module's name."""

from __future__ import annotations

import re
from collections.abc import Iterator

from ..formats.keys import spellings

OLD_SPELLINGS = ((".processor.", "."), (re.compile(r"\.to_out$"), ".to_out.0"))
"""How diffusers' old attention processors spell names, and how they are spelled now."""


def every_spelling(module: str) -> Iterator[str]:
    """`module` with and without each of its prefixes, as it stands and as it would be spelled now."""
    for name in spellings(module):
        yield name
        for old, new in OLD_SPELLINGS:
            name = name.replace(old, new) if isinstance(old, str) else old.sub(new, name)
            yield name
