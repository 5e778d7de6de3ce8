"""Render a page to one self-contained HTML file, without scripts or requests."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from intraq_cli import __version__
from intraq_cli.errors import CheckpointError
from intraq_cli.reports import one, several
from intraq_cli.reports.folder import Record
from intraq_cli.reports.layout import Page

TEMPLATE = Path(__file__).with_name("page.html.jinja")
MOST_BYTES = 1_000_000


def page_of_one(record: Record) -> str:
    """Return the HTML of a run, which is smaller than a megabyte.

    Raises:
        CheckpointError: the run has too much data for a page.
    """
    return _small(one.page(record))


def page_of_several(records: Sequence[Record]) -> str:
    """Return the HTML of several runs side by side, which is smaller than a megabyte.

    Raises:
        CheckpointError: the runs have too much data for a page.
    """
    return _small(several.page(records))


def _small(page: Page) -> str:
    """Render a page, without its images if it would otherwise be too large."""
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
