"""Who may do what, as one SVG: accounts and builds, keys and buckets, an arrow for each permission.

Arrows to a key show the answers about that key; the other arrows show what the template's roles and
bucket policies allow.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from statistics import mean
from xml.etree import ElementTree as ET

from generator import nodes
from generator.access.answers import BY_GRANT, Answer, Attests, KeyAccess
from generator.nodes import listed, mapping, properties
from generator.policy.evaluation import Verdict
from generator.policy.request import Leads
from generator.terminal import escaped

WIDTH, BOX_WIDTH, MARGIN = 980, 296, 8
ARROW_HEIGHT, BOX_HEIGHT, GAP = 24, 48, 18
LABEL_MAX, NAME_MAX = 60, 38
"""Characters that fit on an arrow, and into a box, in a wide font such as DejaVu Sans."""

USES = {
    Attests.NOTHING: "decrypts without attestation",
    Attests.DEBUG: "decrypts in a debug enclave",
    Attests.OTHER: "decrypts in an image that is not bound",
    Attests.BOUND: "decrypts in a bound image",
}
"""What a caller can do with that attestation, the most alarming first."""

INSIDE, OUTSIDE = "the key's account", "outside the key's account"
GRANTEE = "whoever gets a grant"
"""`BY_GRANT`, as short as a box needs it."""
ANYWHERE = "inside or outside the key's account"

KINDS = {
    "codecommit": "CodeCommit repository",
    "codeconnections": "connection to a repository",
    "codestar-connections": "connection to a repository",
    "kms": "KMS key",
    "logs": "log group",
    "s3": "S3 bucket",
}
"""The kind of resource that a permission is for, by the prefix of its actions."""

STYLE = """
svg { font: 12.5px system-ui, sans-serif; fill: #1b2530; background: #fff }
rect { fill: #f3f6f9; stroke: #b8c4d0 } .outside rect { fill: #fff1e0; stroke: #d9a45f }
.kind, .label { fill: #55636f; font-size: 11px }
path { fill: none; stroke: #8896a3 } .tip { fill: #8896a3 } .bad { stroke: #a61b29 }
.bad.label { fill: #a61b29; stroke: none }
"""
"""For a picture in a file of its own; on the page, the page's style applies."""


@dataclass(frozen=True)
class Box:
    """Somebody who may do something, or the resource that it is done to."""

    name: str
    kind: str
    outside: bool = False


@dataclass(frozen=True)
class Arrow:
    """What *source* may do to *target*; *alarming* if it should not."""

    source: Box
    target: Box
    label: str
    alarming: bool = False


def drawing(
    template: Mapping[str, object], keys: Sequence[KeyAccess], *, alone: bool = False
) -> str:
    """Return an SVG for use inside an HTML page, or *alone* in a file."""
    arrows = [*_to_resources(template)]
    for key in keys:
        arrows += _to_key(key)
    return _svg(arrows, alone=alone) if arrows else ""


# --- arrows --------------------------------------------------------------------------------------


def _to_key(key: KeyAccess) -> Iterator[Arrow]:
    """Yield arrows for who decrypts with a key, and who controls it."""
    target = Box(key.key, KINDS["kms"])
    callers = {answer.caller: None for answer in key.answers}
    for caller in callers:
        answers = [answer for answer in key.answers if answer.caller == caller]
        by_grant = caller.name == BY_GRANT
        named = re.sub(r"\$\{(.+?)\}", r"\1", caller.name)  # an account that a parameter names
        name = GRANTEE if by_grant else named
        kind = ANYWHERE if by_grant else OUTSIDE if caller.outsider else INSIDE
        source = Box(name, kind, caller.outsider)
        for label, alarming in _uses(answers, outsider=caller.outsider):
            yield Arrow(source, target, label, alarming)


def _uses(answers: Sequence[Answer], *, outsider: bool) -> Iterator[tuple[str, bool]]:
    possible = [answer for answer in answers if answer.verdict is not Verdict.DENIED]
    decrypting = [answer for answer in possible if answer.leads is Leads.TO_PLAINTEXT]
    enough = next((each for each in USES if each in {way.attests for way in decrypting}), None)
    if enough:
        ways = [way for way in decrypting if way.attests is enough]
        yield _perhaps(ways) + USES[enough], enough is not Attests.BOUND
    controlling = [answer for answer in possible if answer.leads is Leads.TO_CONTROL]
    if controlling:
        yield f"{_perhaps(controlling)}changes the key's policy, deletes the key", outsider


def _perhaps(answers: Sequence[Answer]) -> str:
    """Return what begins a label if none of *answers* is proved."""
    return "" if any(each.verdict is Verdict.ALLOWED for each in answers) else "perhaps "


def _to_resources(template: Mapping[str, object]) -> Iterator[Arrow]:
    """Yield arrows for what each build may do, and whom each bucket's policy allows in."""
    names = {*mapping(template.get("Resources")), *mapping(template.get("Parameters"))}
    for name, project in nodes.resources(template, nodes.CODEBUILD_PROJECT):
        source = Box(name, "CodeBuild project")
        for statement in _role_statements(template, properties(project).get("ServiceRole")):
            actions = [str(action) for action in listed(statement.get("Action"))]
            for target in _first_names(statement.get("Resource"), names):
                yield Arrow(source, Box(target, _kind(actions)), _joined(actions))
    for _, policy in nodes.resources(template, "AWS::S3::BucketPolicy"):
        buckets = _first_names(properties(policy).get("Bucket"), names)
        for statement in _allowed(properties(policy).get("PolicyDocument")):
            actions = [str(action) for action in listed(statement.get("Action"))]
            for who in _first_names(statement.get("Principal"), names):
                source = Box(f"account {who}", OUTSIDE, outside=True)
                for bucket in buckets:
                    yield Arrow(source, Box(bucket, KINDS["s3"]), _joined(actions))


def _role_statements(
    template: Mapping[str, object], role: object
) -> Iterator[Mapping[str, object]]:
    """Yield what the policies of a *role* of the template allow."""
    roles = {*nodes.references(role)}
    for name, resource in nodes.resources(template):
        attached = properties(resource)
        if name in roles:
            yield from _allowed(attached.get("Policies"))
        elif roles & {*nodes.references([attached.get("Roles"), attached.get("RoleName")])}:
            yield from _allowed(attached.get("PolicyDocument"))


def _allowed(node: object) -> Iterator[Mapping[str, object]]:
    """Yield the statements inside *node* that allow something, under any condition."""
    for _, found in nodes.walk(node):
        if isinstance(found, Mapping) and found.get("Effect") == "Allow" and "Action" in found:
            yield found


def _first_names(node: object, names: Iterable[str]) -> list[str]:
    """Return the first name that each text in *node* refers to, such as an object ARN's bucket."""
    known = frozenset(names)
    found = []
    for each in listed(node):
        referred = (name for name in nodes.references(each) if name in known)
        found.append(next(referred, None))
    return [*dict.fromkeys(name for name in found if name)]


def _kind(actions: Sequence[str]) -> str:
    service = actions[0].partition(":")[0] if actions else ""
    return KINDS.get(service, service)


def _joined(actions: Sequence[str]) -> str:
    """Return *actions* in one line, the last ones by their number if they are too long."""
    for count in range(len(actions), 0, -1):
        more = f" and {len(actions) - count} more" if count < len(actions) else ""
        text = ", ".join(actions[:count]) + more
        if len(text) <= LABEL_MAX:
            return text
    return f"{len(actions)} actions"


# --- the picture ---------------------------------------------------------------------------------


def _svg(arrows: Sequence[Arrow], *, alone: bool) -> str:
    """Draw callers on the left, each as high as its arrows need, and resources on the right."""
    arrows = [*dict.fromkeys(arrows)]
    sources = [*dict.fromkeys(arrow.source for arrow in arrows)]
    leaving = {box: [arrow for arrow in arrows if arrow.source == box] for box in sources}
    lefts = _column(sources, [len(leaving[box]) for box in sources])
    starts = {
        arrow: lefts[box][0] + ARROW_HEIGHT * (number + 1)
        for box in sources
        for number, arrow in enumerate(leaving[box])
    }
    arriving: dict[Box, list[Arrow]] = {}
    for arrow in arrows:
        arriving.setdefault(arrow.target, []).append(arrow)
    by_height = sorted(arriving, key=lambda box: mean(starts[arrow] for arrow in arriving[box]))
    rights = _column(by_height, [len(arriving[box]) / 2 for box in by_height])
    height = max(top + size for top, size in (*lefts.values(), *rights.values())) + MARGIN
    svg = ET.Element("svg", viewBox=f"0 0 {WIDTH} {height:g}", role="img")
    if alone:
        svg.set("xmlns", "http://www.w3.org/2000/svg")
        ET.SubElement(svg, "style").text = STYLE
    ET.SubElement(svg, "title").text = "Who may do what"
    for box in by_height:
        top, size = rights[box]
        step = size / (len(arriving[box]) + 1)
        ordered = sorted(arriving[box], key=starts.__getitem__)
        for number, arrow in enumerate(ordered):
            _arrow(svg, arrow, starts[arrow], top + step * (number + 1))
    for box, (top, size) in lefts.items():
        _box(svg, box, MARGIN, top, size)
    for box, (top, size) in rights.items():
        _box(svg, box, WIDTH - MARGIN - BOX_WIDTH, top, size)
    return ET.tostring(svg, encoding="unicode")


def _column(boxes: Sequence[Box], arrows: Sequence[float]) -> dict[Box, tuple[float, float]]:
    """Return each box's top and height, for the number of its *arrows*."""
    found = {}
    top: float = MARGIN
    for box, count in zip(boxes, arrows, strict=True):
        height = max(BOX_HEIGHT, ARROW_HEIGHT * (count + 0.5))
        found[box] = top, height
        top += height + GAP
    return found


def _arrow(svg: ET.Element, arrow: Arrow, start: float, end: float) -> None:
    left, right = MARGIN + BOX_WIDTH, WIDTH - MARGIN - BOX_WIDTH
    tone = " bad" if arrow.alarming else ""
    bend = f"C{right - 30},{start:g} {right - 40},{end:g} {right - 6},{end:g}"
    path = f"M{left},{start:g} H{right - 70} {bend}"
    ET.SubElement(svg, "path", {"class": f"arrow{tone}", "d": path})
    tip = f"M{right - 7},{end - 4:g} L{right},{end:g} L{right - 7},{end + 4:g} Z"
    ET.SubElement(svg, "path", {"class": f"tip{tone}", "d": tip})
    place = {"x": f"{left + 8}", "y": f"{start - 5:g}", "class": f"label{tone}"}
    ET.SubElement(svg, "text", place).text = escaped(_short(arrow.label, LABEL_MAX))


def _box(svg: ET.Element, box: Box, left: float, top: float, height: float) -> None:
    group = ET.SubElement(svg, "g", {"class": "outside"} if box.outside else {})
    size = {"width": str(BOX_WIDTH), "height": f"{height:g}", "rx": "6"}
    ET.SubElement(group, "rect", {"x": f"{left:g}", "y": f"{top:g}", **size})
    ET.SubElement(group, "title").text = escaped(box.name)
    place = {"x": f"{left + 12:g}", "y": f"{top + 21:g}"}
    ET.SubElement(group, "text", place).text = escaped(_short(box.name, NAME_MAX))
    place = {"x": f"{left + 12:g}", "y": f"{top + 38:g}", "class": "kind"}
    ET.SubElement(group, "text", place).text = escaped(box.kind)


def _short(text: str, most: int) -> str:
    return text if len(text) <= most else f"{text[: most - 1]}\N{HORIZONTAL ELLIPSIS}"
