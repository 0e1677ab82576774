"""A template's drawing: its resources in layers, what refers to what, as one SVG."""

from collections.abc import Mapping
from xml.etree import ElementTree as ET

import networkx as nx

from generator import nodes
from generator.nodes import mapping
from generator.terminal import escaped

BOX_WIDTH, BOX_HEIGHT = 190, 46
GAP_X, GAP_Y = 26, 44
MARGIN = 8


def references(template: Mapping[str, object]) -> nx.DiGraph:
    """Return the graph of *template*'s resources; an edge leads to what a resource refers to."""
    resources = mapping(template.get("Resources"))
    graph = nx.DiGraph()
    for name, resource in resources.items():
        graph.add_node(name, kind=str(mapping(resource).get("Type", "")))
    for name, resource in resources.items():
        for target in nodes.references(resource):
            if target in graph and target != name:
                graph.add_edge(name, target)
    return graph


def layers(graph: nx.DiGraph) -> list[list[str]]:
    """Put what refers above what it refers to; a circle, which AWS refuses, stays in one layer."""
    condensed = nx.condensation(graph)
    return [
        sorted(name for component in layer for name in condensed.nodes[component]["members"])
        for layer in nx.topological_generations(condensed)
    ]


def drawing(template: Mapping[str, object]) -> str:
    """Return an SVG of *template*'s resources, for use inside an HTML page."""
    graph = references(template)
    rows = layers(graph)
    widest = max(map(len, rows), default=0)
    width = widest * (BOX_WIDTH + GAP_X) - GAP_X + 2 * MARGIN
    height = len(rows) * (BOX_HEIGHT + GAP_Y) - GAP_Y + 2 * MARGIN
    box = f"0 0 {width} {height}"
    svg = ET.Element("svg", viewBox=box, role="img", style=f"max-width:{width}px")
    ET.SubElement(svg, "title").text = "Resources of the template, and what refers to what"
    places = {}
    for level, names in enumerate(rows):
        left = (width - len(names) * (BOX_WIDTH + GAP_X) + GAP_X) / 2
        for column, name in enumerate(names):
            places[name] = (
                left + column * (BOX_WIDTH + GAP_X),
                MARGIN + level * (BOX_HEIGHT + GAP_Y),
            )
    for source, target in sorted(graph.edges):
        _arrow(svg, places[source], places[target])
    for name, (left, top) in places.items():
        _box(svg, name, graph.nodes[name]["kind"], left, top)
    return ET.tostring(svg, encoding="unicode")


def _arrow(svg: ET.Element, source: tuple[float, float], target: tuple[float, float]) -> None:
    x1, y1 = source[0] + BOX_WIDTH / 2, source[1] + BOX_HEIGHT
    x2, y2 = target[0] + BOX_WIDTH / 2, target[1]
    middle = (y1 + y2) / 2
    path = f"M{x1:g},{y1:g} C{x1:g},{middle:g} {x2:g},{middle:g} {x2:g},{y2 - 6:g}"
    ET.SubElement(svg, "path", {"class": "arrow", "d": path})
    tip = f"M{x2 - 4:g},{y2 - 7:g} L{x2:g},{y2:g} L{x2 + 4:g},{y2 - 7:g} Z"
    ET.SubElement(svg, "path", {"class": "tip", "d": tip})


def _box(svg: ET.Element, name: str, kind: str, left: float, top: float) -> None:
    size = {"width": str(BOX_WIDTH), "height": str(BOX_HEIGHT), "rx": "6"}
    ET.SubElement(svg, "rect", {"x": f"{left:g}", "y": f"{top:g}", **size})
    middle = f"{left + BOX_WIDTH / 2:g}"
    ET.SubElement(svg, "text", {"x": middle, "y": f"{top + 20:g}"}).text = escaped(name)
    label = ET.SubElement(svg, "text", {"x": middle, "y": f"{top + 36:g}", "class": "kind"})
    label.text = escaped(kind.removeprefix("AWS::"))
