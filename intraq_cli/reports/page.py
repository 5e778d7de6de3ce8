"""Render a page to one self-contained HTML file, without scripts or requests."""

from dataclasses import replace
from pathlib import Path

from intraq_cli import __version__
from intraq_cli.errors import CheckpointError
from intraq_cli.reports import one, several
from intraq_cli.reports.folder import Record
from intraq_cli.reports.layout import Page

TEMPLATE = Path(__file__).with_name("page.html.jinja")
MOST_BYTES = 1_000_000


def html_page(*records: Record) -> str:
    """Return the HTML of one run, or of several side by side; without images if it would exceed a megabyte with them.

    Raises:
        CheckpointError: the runs have too much data for a page.
    """
    page = one.page(records[0]) if len(records) == 1 else several.page(records)
    bare = replace(page, sections=[replace(section, tiles=()) for section in page.sections])
    for choice in (page, bare):
        made = render(choice)
        if len(made.encode()) < MOST_BYTES:
            return made
    raise CheckpointError(f"a report of {page.title} would be larger than 1 MB", "its run.json is too large")


def render(page: Page) -> str:
    """Render a page as HTML; all text is escaped."""
    from jinja2 import Environment, StrictUndefined

    shown = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    template = shown.from_string(TEMPLATE.read_text(encoding="utf-8"))
    return template.render(page=page, version=__version__)
