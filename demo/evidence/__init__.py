"""The paper's claims, re-measured on the demo pair: `python -m demo.evidence` writes docs/EVIDENCE.md."""
