"""Reinforcement Learning Guidance (arXiv 2508.21016) on plain tensors and torch modules, without ComfyUI."""
