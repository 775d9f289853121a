"""What RLG costs beside the other ways of sampling from two models: `python -m bench` writes RESULTS.md."""
