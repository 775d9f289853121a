"""Terms beside the modules of a model, switched on for chosen rows of the batch: `y[rows] += term(x[rows])`.

One copy of the weights serves the base and every RL-tuned version of it. Nothing is merged into the weights.
"""

from .attach import Assignment, Pass, RowTerms
from .terms import is_linear_or_conv, module_terms
from .watch import BlockWatch, reads

__all__ = ["Assignment", "BlockWatch", "Pass", "RowTerms", "is_linear_or_conv", "module_terms", "reads"]
