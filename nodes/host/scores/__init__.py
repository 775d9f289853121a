"""Judging pictures on the host: rewards, the implicit reward, and the search for a scale."""
