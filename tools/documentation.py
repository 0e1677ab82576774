"""The parts of the documentation that are generated from the code: `make docs`.

Such a part is between two comments, for instance ``<!-- parameters -->`` and ``<!-- end -->``; the
rest of a page is written by hand.
"""

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import partial
from operator import attrgetter
from pathlib import Path

from cfnlint.rules import CloudFormationLintRule, Rules

from generator.explain.drawing import drawing
from generator.explain.report import explain
from generator.parameters import (
    ENCRYPTOR_PARAMETERS,
    SHARING_PARAMETERS,
    SOURCES,
    TemplateParameter,
)
from generator.validation import RULES
from tools import commands, house
from tools.prose import laid_out

DOCS = Path("docs")
EXAMPLES = Path("tests/rules/templates")
TEMPLATE = Path("templates/Deploy-ApplicationEncryptor-Cfn.yaml")
NONE = "\N{EN DASH}"


def parameter_table(parameters: Iterable[TemplateParameter]) -> str:
    """Return a Markdown table of *parameters*: name, default, meaning and constraint."""
    rows = ["| parameter | default | meaning |", "|---|---|---|"]
    for parameter in parameters:
        default = {None: NONE, "": "empty"}.get(parameter.default, f"`{parameter.default}`")
        meaning = f"{parameter.description} It {parameter.constraint}."
        rows.append(f"| `{parameter.name}` | {default} | {meaning} |")
    return "".join(f"{row}\n" for row in rows)


def _example(rule: CloudFormationLintRule, kind: str) -> Iterator[str]:
    path = EXAMPLES / f"{rule.id}.{kind}.yaml"
    if path.exists():
        yield f"\n<details><summary>a {kind} template</summary>\n\n```yaml\n"
        yield path.read_text(encoding="utf-8")
        yield "```\n\n</details>\n"


def rules() -> str:
    """Return each rule with its reason, its source, and a bad and a good example."""
    found = sorted(Rules.create_from_module(RULES).values(), key=attrgetter("id"))
    parts = ["| rule | finds |\n|---|---|\n"]
    parts += [f"| [{rule.id}](#{rule.id.lower()}) | {rule.shortdesc} |\n" for rule in found]
    for rule in found:
        what = rule.shortdesc[0].upper() + rule.shortdesc[1:]
        parts.append(f"\n## {rule.id}\n\n{what}. {rule.description}.\n")
        parts.append(f"Source: <{rule.source_url}>.\n")
        parts += _example(rule, "bad")
        parts += _example(rule, "good")
    return "".join(parts)


def architecture() -> str:
    """Return the picture of who may do what by the template for CodeCommit, as SVG."""
    explained = explain(str(TEMPLATE))
    return drawing(explained.document, explained.keys, alone=True) + "\n"


PICTURES: Mapping[Path, Callable[[], str]] = {DOCS / "architecture.svg": architecture}
PARTS: Mapping[str, Callable[[], str]] = {
    **commands.PARTS,
    "parameters": partial(parameter_table, ENCRYPTOR_PARAMETERS),
    "s3-parameters": partial(parameter_table, SOURCES["s3"]),
    "connection-parameters": partial(parameter_table, SOURCES["connection"]),
    "sharing-parameters": partial(parameter_table, SHARING_PARAMETERS),
    "rules": rules,
    "map": house.drawn,
}
_MARKED = re.compile(rf"(<!-- ({'|'.join(PARTS)}) -->\n).*?(<!-- end -->)", re.DOTALL)


def pages() -> list[Path]:
    """Return every page that is written for people."""
    return sorted([*Path().glob("*.md"), *DOCS.glob("*.md"), Path("enclave/README.md")])


def renewed(page: str) -> str:
    """Return the text of a *page* with each of its generated parts updated."""
    return _MARKED.sub(lambda mark: mark[1] + laid_out(PARTS[mark[2]]()) + mark[3], page)


if __name__ == "__main__":
    for path in pages():
        page = path.read_text(encoding="utf-8")
        path.write_text(laid_out(renewed(page)), encoding="utf-8", newline="\n")
    for path, picture in PICTURES.items():
        path.write_text(picture(), encoding="utf-8", newline="\n")
