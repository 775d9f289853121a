"""Models of the host: base and RL model, and the files they come from and go to."""
