"""Renders templates as YAML that reads as if written by hand, always with the same bytes.

Intrinsic functions are in short form (``!Ref``), long texts are literal blocks,
the order is that of the code, and above each resource and statement is a
comment: the first paragraph of the docstring of the function that returned it.
"""

import inspect
import re
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path
from textwrap import wrap
from types import ModuleType
from typing import NamedTuple

import yaml
from troposphere import Template, encode_to_dict

from generator.limits import BUILDSPEC_BUDGET, DIRECT_DEPLOYMENT_MAX
from generator.templates import application_encryptor, policies, sharing_bucket
from generator.templates.sources import SOURCES


class Origin(NamedTuple):
    """The module that a template comes from, and the function that makes it."""

    module: ModuleType
    template: Callable[[], Template]


TEMPLATES = {
    **{
        source.file_name: Origin(
            application_encryptor, partial(application_encryptor.template, name)
        )
        for name, source in SOURCES.items()
    },
    sharing_bucket.FILE_NAME: Origin(sharing_bucket, sharing_bucket.template),
}
"""Every template that `render` writes, by file name."""

WIDTH = 100
SECTIONS = ("Metadata", "Parameters", "Mappings", "Conditions", "Resources", "Outputs")
RESOURCE_MEMBERS = ("Type", "DeletionPolicy", "UpdateReplacePolicy", "Properties")
IN_ONE_LINE = ("!Equals", "!FindInMap", "!Not", "!Select", "!Split")
FOLDED_FROM = 72
"""Prose of this many characters or more is written as a folded block."""


class _Dumper(yaml.SafeDumper):
    """Indents lists below their key and repeats nodes instead of inventing anchors."""

    # The signature is PyYAML's.
    def increase_indent(self, flow: bool = False, indentless: bool = False) -> None:  # noqa: FBT001, FBT002
        super().increase_indent(flow, indentless=indentless and flow)

    def ignore_aliases(self, data: object) -> bool:
        del data
        return True


def _text(dumper: yaml.SafeDumper, text: str) -> yaml.Node:
    folded = ">" if len(text) >= FOLDED_FROM and " " in text else None
    style = "|" if "\n" in text else folded
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style=style)


def _mapping(dumper: yaml.SafeDumper, members: dict[str, object]) -> yaml.Node:
    name = next(iter(members), "")
    if len(members) > 1 or not (name == "Ref" or name.startswith("Fn::")):
        return dumper.represent_mapping("tag:yaml.org,2002:map", members.items())
    value = members[name]
    if name == "Fn::GetAtt" and isinstance(value, list):
        value = ".".join(value)
    node = dumper.represent_data(value)
    node.tag = "!" + name.removeprefix("Fn::")
    if isinstance(node, yaml.CollectionNode):
        node.flow_style = node.tag in IN_ONE_LINE
    return node


_Dumper.add_representer(str, _text)
_Dumper.add_representer(dict, _mapping)


def _lines(data: Mapping[str, object]) -> list[str]:
    text = yaml.dump(data, Dumper=_Dumper, sort_keys=False, width=WIDTH)
    # PyYAML quotes whatever has a tag; a name needs no quotes.
    return re.sub(r"(!\w+) '([\w:.]+)'", r"\1 \2", text).splitlines()


def explanations(*modules: ModuleType) -> dict[str, str]:
    """Map public functions of *modules*, in CamelCase, to their docstrings' first paragraph."""
    functions = {
        name.title().replace("_", ""): inspect.getdoc(function) or ""
        for module in modules
        for name, function in inspect.getmembers(module, inspect.isfunction)
        if not name.startswith("_") and function.__module__ == module.__name__
    }
    return {name: " ".join(text.partition("\n\n")[0].split()) for name, text in functions.items()}


def _comment(text: str, margin: str) -> list[str]:
    return wrap(text, WIDTH, initial_indent=f"{margin}# ", subsequent_indent=f"{margin}# ")


def _commented(lines: list[str], comments: Mapping[str, str]) -> Iterator[str]:
    """Yield *lines* with a comment above each statement that has one."""
    for line in lines:
        sid = re.fullmatch(r"( *)- Sid: (\w+)", line)
        if sid and sid[2] in comments:
            yield from _comment(comments[sid[2]], sid[1])
        yield line


def _section(members: Mapping[str, object], comments: Mapping[str, str]) -> Iterator[str]:
    """Yield the lines of a section's *members*, an empty line between them."""
    for position, (title, member) in enumerate(members.items()):
        if position:
            yield ""
        yield from _comment(comments.get(title, ""), "  ")
        lines = [f"  {line}" if line else "" for line in _lines({title: member})]
        yield from _commented(lines, comments)


def _resource(members: Mapping[str, object]) -> dict[str, object]:
    """Put what a resource is and whether it is kept before its properties."""
    return {name: members[name] for name in RESOURCE_MEMBERS if name in members}


def render(name: str) -> str:
    """Return the text of the template called *name*, a key of TEMPLATES."""
    module, make = TEMPLATES[name]
    template = encode_to_dict(make())
    origin = module.__name__.replace(".", "/") + ".py"
    head = {key: template[key] for key in ("AWSTemplateFormatVersion", "Description")}
    template["Resources"] = {
        title: _resource(members) for title, members in template["Resources"].items()
    }
    lines = [
        f"# Generated from {origin} by `make template`: change that and render again.",
        "",
        *_lines(head),
    ]
    comments = explanations(policies, module)
    for section in SECTIONS:
        if section in template:
            said = comments if section == "Resources" else {}
            lines += ["", f"{section}:", *_section(template[section], said)]
    return "\n".join(lines) + "\n"


def write(name: str, path: Path) -> str:
    """Render the template *name* into the file *path*; return its size and what is left."""
    text = render(name)
    path.write_text(text, encoding="utf-8", newline="\n")
    size = len(text.encode())
    message = f"{path}: {size:,} bytes, {DIRECT_DEPLOYMENT_MAX - size:,} left"
    for resource in TEMPLATES[name].template().to_dict()["Resources"].values():
        spec = resource["Properties"].get("Source", {}).get("BuildSpec", "")
        if spec:
            message += (
                f"; buildspec: {len(spec):,} characters, {BUILDSPEC_BUDGET - len(spec):,} left"
            )
    return message
