"""Prose in Markdown: one sentence a line, or wrapped at 100 columns.

A difference then shows which sentence changed. Tables, code, headings and HTML are as they are.
"""

from __future__ import annotations

import itertools
import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

WIDTH = 100
_CODE = re.compile(r"`[^`]*`")
_END = re.compile(r"(?<!\be\.g)(?<!\bi\.e)[.!?][)*\"']* +(?=[A-Z`*\"'(\[])")
_ENDS = re.compile(r"[.!?:;][)*\"'`]*$")
_BEGINNING = re.compile(r" *(?:(?:[-*]|\d+\.) +)?")
_ITEM = re.compile(r" *(?:[-*]|\d+\.) +")
_NO_PROSE = ("|", "#", "<", "    ", "```")


def sentences(text: str) -> list[str]:
    """Return the sentences of one paragraph; what is in code spans ends none."""
    masked = _CODE.sub(lambda span: "`" + "x" * (len(span[0]) - 2) + "`", text)
    ends = [0, *(end.end() for end in _END.finditer(masked)), len(text)]
    return [text[start:end].strip() for start, end in itertools.pairwise(ends)]


def blocks(page: str) -> Iterator[tuple[bool, list[str]]]:
    """Yield the parts of *page*, and whether each is prose: a paragraph, or an item of a list."""
    block: list[str] = []
    fenced = False
    for line in page.splitlines():
        fence = line.lstrip().startswith("```")
        prose = not (fenced or fence or not line.strip() or line.startswith(_NO_PROSE))
        if block and (not prose or _ITEM.match(line)):
            yield True, block
            block = []
        if prose:
            block.append(line)
        else:
            yield False, [line]
        fenced ^= fence
    if block:
        yield True, block


def is_laid_out(block: list[str]) -> bool:
    """Return whether no line of a paragraph is long, or each long one is a whole sentence."""
    begins = True
    for number, line in enumerate(block, 1):
        ended = bool(_ENDS.search(line))
        whole = begins and len(sentences(line)) == 1 and (ended or number == len(block))
        if len(line) > WIDTH and not whole:
            return False
        begins = ended
    return True


def laid_out(page: str) -> str:
    """Return *page* with one sentence a line in every paragraph that has longer lines."""
    lines: list[str] = []
    for prose, block in blocks(page):
        if prose and not is_laid_out(block):
            beginning = _BEGINNING.match(block[0])  # of an item, or of a paragraph inside one
            marker = beginning[0] if beginning else ""
            text = " ".join(line.strip() for line in (block[0][len(marker) :], *block[1:]))
            first, *rest = sentences(text)
            lines += [marker + first, *(" " * len(marker) + one for one in rest)]
        else:
            lines += block
    return "".join(f"{line}\n" for line in lines)
