"""`python -m sweep`: one graph over many prompts, seeds and scales, on as many GPUs and machines as Ray has.

The way of a sweep: `spec` reads the sweep file, `graph` and `together` make the graphs to queue, `plan` the units of
work, `checks` refuses what cannot run, `drive` hands units to `worker`s (each owns a ComfyUI), `store` keeps what comes
back, `report` shows it.
"""
