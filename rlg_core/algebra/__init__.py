"""What an adapter does to one weight: one file per algebra, and one table of them all."""

from .dora import Decomposed
from .full import Delta, Replace
from .glora import Generalized
from .loha import Hadamard
from .lokr import Kronecker
from .lora import LowRank, low_rank_product
from .placed import Placed, Slice, total_delta
from .rotation import Rotated
from .table import ALGEBRAS, algebra_of, is_dora, rank_of, terms_of
from .term import AdditiveTerm, Algebra, Conv, Parts, Term, plain_conv

__all__ = [
    "ALGEBRAS",
    "AdditiveTerm",
    "Algebra",
    "Conv",
    "Decomposed",
    "Delta",
    "Generalized",
    "Hadamard",
    "Kronecker",
    "LowRank",
    "Parts",
    "Placed",
    "Replace",
    "Rotated",
    "Slice",
    "Term",
    "algebra_of",
    "is_dora",
    "low_rank_product",
    "plain_conv",
    "rank_of",
    "terms_of",
    "total_delta",
]
