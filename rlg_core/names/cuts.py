"""Which rows of a fused weight belong to a module that adapter files hold separately."""

from __future__ import annotations

from collections.abc import Callable

Cut = Callable[[int, int], tuple[int, int]]
"""(rows n, columns c of the fused weight) -> (first row, number of rows)."""

QUERY: Cut = lambda n, c: (0, c)
KEY: Cut = lambda n, c: (c, (n - c) // 2)
VALUE: Cut = lambda n, c: (c + (n - c) // 2, (n - c) // 2)
"""The query has as many rows as the model is wide.

Key and value share the rest, which is less if queries are grouped (Lumina2).
"""

FIRST: Cut = lambda n, c: (0, c)
SECOND: Cut = lambda n, c: (c, c)
THIRD: Cut = lambda n, c: (2 * c, c)
REST: Cut = lambda n, c: (3 * c, n - 3 * c)
"""`linear1` of single-stream blocks: query, key, value, then the MLP."""

UPPER: Cut = lambda n, c: (0, n // 2)
LOWER: Cut = lambda n, c: (n // 2, n - n // 2)

SWAPPED: Cut = lambda n, c: (0, n)
"""All rows. If they hold a shift and a scale (2c rows), the order of the two is the reverse of diffusers'."""

Leaf = dict[str, "Cut | None"]


def whole(*names: str) -> Leaf:
    """The module that is the host's whole weight, under any of these names."""
    return dict.fromkeys(names)


def same(*names: str) -> dict[str, Leaf]:
    """Modules that have the same names on the host."""
    return {name: whole(name) for name in names}


def qkv(query: str, key: str, value: str) -> Leaf:
    return {query: QUERY, key: KEY, value: VALUE}


def kv(key: str, value: str) -> Leaf:
    return {key: UPPER, value: LOWER}


def swapped(name: str) -> Leaf:
    return {name: SWAPPED}
