"""What RLG samples where scores are exact: `python -m bench.theory` writes docs/THEORY.md and its plots."""
