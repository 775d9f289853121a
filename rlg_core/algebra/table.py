"""All algebras, and the terms that the parts of one module make."""

from __future__ import annotations

from ..errors import AdapterError
from . import dora
from .boft import BOFT
from .full import PARAMETERS
from .glora import GLORA
from .loha import LOHA
from .lokr import LOKR
from .lora import LORA
from .oft import OFT
from .term import AdditiveTerm, Algebra, Options, Parts, Term

ALGEBRAS: tuple[Algebra, ...] = (LORA, LOHA, LOKR, GLORA, OFT, BOFT)


def algebra_of(parts: Parts) -> Algebra | None:
    """The algebra whose parts a module has, or None if it has full tensors only."""
    if "oft_blocks" in parts:  # LyCORIS' name in both; those of a butterfly are [stages, number, size, size]
        return BOFT if parts["oft_blocks"].ndim == 4 else OFT
    return next((algebra for algebra in ALGEBRAS if algebra.parts & parts.keys()), None)


def rank_of(parts: Parts) -> int | None:
    """The rank of a module's factors, or None if nothing is factored."""
    names = (name for algebra in ALGEBRAS for name in algebra.rank_parts)
    factor = next((parts[name] for name in names if name in parts), None)
    return factor.shape[0] if factor is not None and factor.ndim else None


def is_dora(parts: Parts) -> bool:
    return bool(parts.keys() & set(dora.PARTS))


def terms_of(parts: Parts, scale: float, options: Options) -> dict[str, Term]:
    """The terms of one module by parameter (`weight`, `bias`, or an empty name for a parameter that is its own key).

    `scale` multiplies what is factored; `options` are what the file's header and config say. Raises `AdapterError` for
    parts that lack their counterpart or do not fit.
    """
    algebra = algebra_of(parts)
    terms = {} if algebra is None else _factored(algebra, parts, scale, options)
    used = set() if algebra is None else {"alpha", *algebra.parts, *dora.PARTS}
    for part, (parameter, make) in PARAMETERS.items():
        if part in parts and parameter not in terms:
            terms[parameter] = make(parts[part])
            used.add(part)
    left = sorted(parts.keys() - used)
    if left:
        raise AdapterError(f"it has {', '.join(left)} without the parts that belong to them")
    return terms


def _factored(algebra: Algebra, parts: Parts, scale: float, options: Options) -> dict[str, Term]:
    try:
        terms = algebra.build(parts, scale, options)
    except KeyError as missing:
        present = ", ".join(sorted(parts.keys() - {"alpha"}))
        raise AdapterError(f"it has {present}, but no {missing.args[0]}") from missing
    if not is_dora(parts):
        return terms
    if not isinstance(terms["weight"], AdditiveTerm):
        raise AdapterError(f"it has DoRA's magnitudes beside {algebra.label}, which no trainer combines")
    return terms | {"weight": dora.decomposed(terms["weight"], parts)}
