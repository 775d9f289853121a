"""`python -m bench.theory`: writes docs/THEORY.md and docs/theory/*.png."""

from pathlib import Path

from .page import write

if __name__ == "__main__":
    print(write(Path(__file__).resolve().parents[2] / "docs"))
