"""Plots, contact sheets and tables of what the pack measures."""
