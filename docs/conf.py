"""The documentation as a site: `make docs`."""

from intraq_cli import __version__

project = "intraq"
copyright = "the intraq authors"
version = release = __version__

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
exclude_patterns = ["_build", "examples"]
html_theme = "furo"
html_title = "intraq"
html_copy_source = False

myst_heading_anchors = 3

autodoc_typehints = "none"  # docstrings say it; the annotations also carry validators
autodoc_preserve_defaults = True
autodoc_member_order = "bysource"


def setup(app):
    """Keep napoleon from taking what stands in front of an attribute's first colon for its type."""
    written = {}

    def keep(app, what, name, obj, options, lines):
        written[name] = list(lines)

    def restore(app, what, name, obj, options, lines):
        if what in ("attribute", "property"):
            lines[:] = written[name]

    app.connect("autodoc-process-docstring", keep, priority=400)
    app.connect("autodoc-process-docstring", restore, priority=600)
