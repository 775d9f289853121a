"""Shows what the pack measures: plots, contact sheets and tables."""
