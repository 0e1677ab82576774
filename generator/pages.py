"""Self-contained HTML pages, with their style, to keep or to print."""

from __future__ import annotations

from string import Template

from generator.sources import source


def page(room: str, title: str, *, subject: str, tone: str, verdict: str, **parts: str) -> str:
    """Return a page: the verdict on top, below it ``page.html`` of *room*, in its ``page.css``.

    Args:
        room: a package of the generator, such as ``explain``.
        title: for the browser's tab.
        subject: what it is about, escaped.
        tone: ``good``, ``bad`` or ``unknown``.
        verdict: one sentence, escaped.
        parts: values for the placeholders of the package's page, escaped.
    """
    return Template(source("page.html")).substitute(
        title=title,
        style=source(f"{room}/page.css"),
        subject=subject,
        tone=tone,
        verdict=verdict,
        body=Template(source(f"{room}/page.html")).substitute(parts),
    )
