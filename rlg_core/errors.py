"""The errors this pack raises on purpose. Each message names what was expected and what was found."""


class RLGError(ValueError):
    """Base of every error the pack raises on purpose."""


class AdapterError(RLGError):
    """An adapter or checkpoint file that cannot be loaded whole and at its true strength."""


class PairError(RLGError):
    """Two models that are not a base and an RL-tuned version of it."""


class WeightError(RLGError):
    """A weight that is held in a form in which it cannot be read, or in which a change of it would be another one."""


class RunError(RLGError):
    """A sampling run that would not compute the geometric mean it promises."""


class RowsNotSeparable(RuntimeError):
    """The rows of base and RL model cannot be told apart inside a module, so two passes are needed.

    Not an `RLGError`: the sampling run catches it and answers with two passes.
    """
