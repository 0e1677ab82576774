"""Pages that stand alone: one HTML file with its style, which an auditor keeps and prints."""

from __future__ import annotations

from string import Template

from generator.sources import source


def page(room: str, title: str, *, subject: str, tone: str, verdict: str, **parts: str) -> str:
    """Return a page: the verdict on top, below it ``page.html`` of *room*, in its ``page.css``.

    Args:
        room: of the generator, ``explain`` for instance.
        title: what the page answers, for the browser's tab.
        subject: what it is about, escaped.
        tone: ``good``, ``bad`` or ``unknown``.
        verdict: one sentence, escaped.
        parts: what the room's page has placeholders for, escaped.
    """
    return Template(source("page.html")).substitute(
        title=title,
        style=source(f"{room}/page.css"),
        subject=subject,
        tone=tone,
        verdict=verdict,
        body=Template(source(f"{room}/page.html")).substitute(parts),
    )
