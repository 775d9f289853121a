"""Thousands of mixed prompts through a real server: `python -m bench.soak --prompts 2000 --host 0.30.0`."""
