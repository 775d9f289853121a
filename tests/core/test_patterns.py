"""The patterns of configs: what `re` would match, as PEFT asks it, and never more work than a bound allows."""

from __future__ import annotations

import random
import re

import pytest

from rlg_core.errors import AdapterError
from rlg_core.formats.patterns import EFFORT, Patterns

ATOMS = ("a", "b", ".", r"\.", "[ab]", "[^a]", r"\d", r"\w", "1", "ab1", "[a-c.]", "-", r"\-")
NAMES = "aab1.-"


BOUNDED, UNBOUNDED = ("", "", "?", "{2}", "{1,2}"), ("*", "+", "{0,}", "*?")


def random_pattern(draw: random.Random, depth: int = 0, counts: tuple[str, ...] = BOUNDED + UNBOUNDED) -> str:
    """Without an unbounded repetition inside another, which would keep `re` busy here too."""
    parts = []
    for _ in range(draw.randint(1, 4)):
        count = draw.choice(counts)
        if depth < 2 and draw.random() < 0.3:
            inner = random_pattern(draw, depth + 1, BOUNDED if count in UNBOUNDED else counts)
            parts.append(f"{draw.choice(('(', '(?:'))}{inner}){count}")
        else:
            parts.append(draw.choice(ATOMS) + count if draw.random() < 0.9 else draw.choice("^$"))
    return "".join(parts) + ("|" + draw.choice(ATOMS) if draw.random() < 0.2 else "")


def random_name(draw: random.Random) -> str:
    return "".join(draw.choice(NAMES) for _ in range(draw.randint(1, 8)))


@pytest.mark.parametrize("below", [False, True])
def test_the_same_matches_as_re(below):
    """As PEFT asks: `re.fullmatch` for targets, and below any parent for ranks and alphas; the first match wins."""
    draw, matched = random.Random(0), 0
    for _ in range(3000):
        patterns = [random_pattern(draw) for _ in range(draw.randint(1, 3))]
        ours = Patterns("config", patterns, below)
        for name in (random_name(draw) for _ in range(4)):
            form = r"(?:.*\.)?(?:{})" if below else "(?:{})"
            expected = [k for k, pattern in enumerate(patterns) if re.fullmatch(form.format(pattern), name)]
            assert ours.find(name) == (expected[0] if expected else None), (patterns, name)
            matched += bool(expected)
    assert matched > 1000


@pytest.mark.parametrize(
    "pattern",
    [
        r"(?:.|.)*X",
        r"((.+))+X",
        ".*" * 12 + "X",
        r"(a+)+$",
        r"(a|aa)+X",
        r"(a*)*X",
        r"(\w+\.?)+X",
        "(" * 40 + "a*" + ")*" * 40,
    ],
)
def test_patterns_that_keep_re_busy(pattern):
    """All of these match `a...aX`, and take `re` longer than anyone waits where the X is missing."""
    patterns = Patterns("config", [pattern])
    assert patterns.find("a" * 300 + "Y") is None
    assert patterns.left > EFFORT // 2


@pytest.mark.parametrize(
    "pattern, message",
    [
        ("(?!a)b", r"'\(\?!a\)b' is not supported"),
        (r"(a)\1", r"is not supported"),
        ("a*+", "repeats nothing"),
        ("*", "repeats nothing"),
        ("a{2,1}", "reversed"),
        ("[z-a]", "bad character range"),
        ("[" * 5000, "is not supported"),
        ("(a", "leaves a group open"),
        ("a)", "closes a group"),
        ("(" * 2000 + ")" * 2000, "nested more than 50 deep"),
        ("a{99999999999999}", "take too long"),
        ("a{" + "9" * 5000 + "}", "cannot be used"),
        ("(((){1000}){1000}){1000}", "take too long"),
        ("((a{1000}){1000}){1000}", "take too long"),
        ("a" * 2_000_000, "take too long"),
    ],
)
def test_other_forms_are_refused(pattern, message):
    with pytest.raises(AdapterError, match=message) as refused:
        Patterns("config.json, rank_pattern", [pattern])
    assert str(refused.value).startswith("config.json, rank_pattern: ") and len(str(refused.value)) < 400


def test_a_large_folder_is_little_work():
    """A thousand modules with a pattern each, as the pack's own saver writes them."""
    names = [
        f"transformer_blocks.{i}.attn.{leaf}.{j}" for i in range(50) for leaf in ("to_q", "to_out") for j in range(10)
    ]
    patterns = Patterns("config", ["^" + name.replace(".", r"\.") for name in names], below_any_parent=True)
    assert [patterns.find(name) for name in names] == list(range(len(names)))
    assert patterns.find("x." + names[3]) is None
    assert patterns.left > EFFORT * 2 // 3
