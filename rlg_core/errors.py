"""The errors this pack raises on purpose. Each message names what was expected and what was found."""

from __future__ import annotations

import re
import reprlib
from collections.abc import Callable, Iterable
from numbers import Real

LARGEST = 1e6
"""No scale, strength or alpha that is larger gives a picture. Far above it, float32 overflows."""


_FILE = re.compile(r"(?P<folder>(?:[A-Za-z]:)?[\\/](?:[^\n]*?[\\/])?)(?P<name>[^\\/\n]+?): ")
_GENERIC = re.compile(r"(adapter_|lora_config|diffusion_pytorch_model|pytorch_lora_weights)")
"""How the names of files begin that only their folder tells apart."""
_FOLDER = "\nFolder: "
_SEPARATORS = "/\\"


def file_first(message: str) -> str:
    """`message` with the file's name first and its folder in a line of its own, if it begins with a file's path.

    Editors show people the beginning of a message, often a single line of it.
    """
    found = _FILE.match(message)
    if found is None:
        return message
    folder, name, rest = found["folder"], found["name"], message[found.end() :]
    if len(folder) > 1:  # not the root, whose name is in every path
        rest = rest.replace(folder, "")
    if _GENERIC.match(name):
        folder, name = _without_last(folder, name)
    return f"{name}: {rest}{_FOLDER}{folder.rstrip(_SEPARATORS) or folder}"


def _without_last(folder: str, name: str) -> tuple[str, str]:
    """The folder above `folder`, and `name` with the last part of `folder` before it."""
    above, separator, last = folder[:-1].replace("\\", "/").rpartition("/")
    return (above + separator, f"{last}/{name}") if last else (folder, name)


LARGEST_SEED = 2**64 - 1
"""Seeds are whole numbers of 64 bits."""


class RLGError(ValueError):
    """Base of every error the pack raises on purpose."""

    __module__ = "RLG"  # editors show the module's name; the real one is the pack's whole path

    def __init_subclass__(cls) -> None:
        cls.__module__ = "RLG"

    def __init__(self, message: str) -> None:
        super().__init__(file_first(message))

    def __reduce__(self) -> tuple[object, tuple[str, str]]:
        return _again, (type(self).__name__, str(self))  # there is no module RLG to find the class in

    @property
    def first_line(self) -> str:
        """The message without the folder."""
        return str(self).partition(_FOLDER)[0]


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


def _again(name: str, message: str) -> RLGError:
    """An error that was pickled."""
    return globals()[name](message)


def problem(make: Callable[..., object], *values: object, **named: object) -> bool | str:
    """True if `make` takes the values, else what its `RLGError` says: what nodes tell the host before anything runs."""
    try:
        make(*values, **named)
    except RLGError as error:
        return str(error)
    return True


_SHORT = reprlib.Repr()
_SHORT.maxstring = _SHORT.maxlong = _SHORT.maxother = 80


def shortened(value: object) -> str:
    """`repr(value)` for a message: at most some 80 characters, however long the value is."""
    try:
        return _SHORT.repr(value)[:100]
    except ValueError:  # Python writes no integer of more than some thousand digits
        return f"a very large {type(value).__name__}"


def require_whole(name: str, value: object, low: float, high: float = LARGEST) -> None:
    """Raises `RLGError` unless `value` is a whole number in [low, high]."""
    require_number(name, value, low, high)
    if not isinstance(value, int):
        raise RLGError(f"{name} is {shortened(value)}: expected a whole number from {low:g} to {high:g}.")


def require_one_of(name: str, value: object, known: Iterable[str]) -> None:
    """Raises `RLGError` unless `value` is one of `known`. Choices that come through a link are not checked before."""
    known = list(known)
    if value not in known:
        raise RLGError(f"{name} is {shortened(value)}: expected one of {', '.join(known)}.")


def require_number(name: str, value: object, low: float = -LARGEST, high: float = LARGEST) -> None:
    """Raises `RLGError` unless `value` is a number in [low, high]; NaN is none.

    A node's own range does not hold for linked values, and NaN passes it.
    """
    if isinstance(value, bool) or not isinstance(value, Real) or not low <= value <= high:
        raise RLGError(f"{name} is {shortened(value)}: expected a number from {low:g} to {high:g}.")
