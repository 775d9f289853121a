"""Matches an adapter's changes to the host's weights: all of them, in the host's layout, or it raises an error."""

from __future__ import annotations

from dataclasses import dataclass

from ..algebra import Term
from ..errors import AdapterError
from ..formats import Adapter, Change
from .resolve import NameMap, Target
from .table import ARCHITECTURES


@dataclass(frozen=True)
class Match:
    """One change of an adapter and the host's parameter it is for; `term` is in the host's layout."""

    change: Change
    target: Target
    term: Term


def match(adapter: Adapter, names: NameMap) -> list[Match]:
    """Every change of `adapter` with its parameter.

    Raises `AdapterError` unless each change has a parameter of its own and fits it: an adapter is never loaded
    partially, and no part of it twice.
    """
    found = [(change, names.find(change.module, change.parameter)) for change in adapter.changes]
    missing = [change for change, target in found if target is None]
    if missing:
        raise AdapterError(_unmatched(adapter, missing, names))
    matches = [
        Match(change, target, _fitted(adapter, change, target)) for change, target in found if target is not None
    ]
    _refuse_doubles(adapter, matches)
    return matches


def _refuse_doubles(adapter: Adapter, matches: list[Match]) -> None:
    """Two names of one weight, or of rows of it: both changes would be twice the adapter, if they are copies."""
    seen: dict[str, list[Match]] = {}
    for found in matches:
        for other in seen.setdefault(found.target.key, []):
            if _rows(found).start < _rows(other).stop and _rows(other).start < _rows(found).stop:
                raise AdapterError(
                    f"{adapter.file.path}: {other.change.module} and {found.change.module} both change "
                    f"{found.target.key}: expected one change per weight. Remove the keys of one of them from the file."
                )
        seen[found.target.key].append(found)


def _rows(found: Match) -> range:
    """The rows of the host's weight that a change is for."""
    start, count = found.target.cut or (0, found.target.shape[0] if found.target.shape else 1)
    return range(start, start + count)


def _unmatched(adapter: Adapter, missing: list[Change], names: NameMap) -> str:
    first = ", ".join(".".join(filter(None, (change.module, change.parameter))) for change in missing[:3])
    architecture = names.architecture.name if names.architecture else "this architecture"
    made_for = _made_for(adapter, names)
    if len(missing) == len(adapter.changes):
        return (
            f"{adapter.file.path}: none of its {len(missing)} changes is for this model ({architecture}); "
            f"the first are {first}. It was made for {made_for or 'another architecture'}: load the base model it was "
            "trained on."
        )
    guess = f" It was made for {made_for}." if made_for else ""
    return (
        f"{adapter.file.path}: {len(missing)} of {len(adapter.changes)} changes have no weight in this model "
        f"({architecture}), the first are {first}.{guess} An adapter is never loaded partially: load the base model "
        "it was trained on."
    )


def _made_for(adapter: Adapter, names: NameMap) -> str:
    """The other architectures that have a module for each change, "" if there are none."""
    modules = {change.module for change in adapter.changes}
    others = [known for known in reversed(ARCHITECTURES) if known is not names.architecture]
    possible = [known.name for known in others if all(map(known.has, modules))]
    if len(possible) < 2:
        return "".join(possible)
    return f"{possible[0]} (or for {', '.join(possible[1:])}: their adapters name these modules alike)"


def _fitted(adapter: Adapter, change: Change, target: Target) -> Term:
    shape = target.shape if target.cut is None else (target.cut[1], *target.shape[1:])
    try:
        term = change.term.fitted(shape)
    except AdapterError as error:
        raise AdapterError(f"{adapter.file.path}: {change.module}: {error}.") from error
    if term is None:
        raise AdapterError(
            f"{adapter.file.path}: {change.module}: its change has shape {list(change.term.shape)}, but "
            f"{target.key} has {list(shape)} in this model. This base model is of another size or kind."
        )
    return term.swapped() if target.swapped else term
