"""The only part of the pack that knows ComfyUI: its models, its sampling runs, and its way of loading things."""
