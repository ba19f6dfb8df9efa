"""Pages: one self-contained HTML file each, the same bytes for the same input.

`similar` shows a query and its hits, `training` a trained probe, `learning` a learning curve. `jinja2` and
`matplotlib` have their home here.
"""
