"""Means and their standard errors."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch


def mean_and_error(values: Sequence[float]) -> tuple[float, float]:
    """The mean of `values` and its standard error (NaN for a single value)."""
    data = torch.tensor(values, dtype=torch.float64)
    error = float(data.std() / math.sqrt(len(data))) if len(data) > 1 else math.nan
    return float(data.mean()), error
