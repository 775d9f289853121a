"""The pack's only rooms that know ComfyUI: its models, its sampling runs, its way of loading things."""
