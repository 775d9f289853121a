"""The templates for public models: `python -m devtools.templates` writes them anew.

Each is declared once: nodes with speaking keys, inputs by name and the files they load in Python, its note in `notes`.
`editor` makes the graph editor's file of it, `api` the graph that the HTTP API takes. What a node looks like (the order
of its inputs, its defaults) comes from the oldest supported ComfyUI, as it tells of itself: newer ones open such files.
"""
