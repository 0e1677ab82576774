"""A template whose parameters, pseudo parameters and conditions are not fixed.

``Template.alternatives`` returns what a node may be and when: intrinsic functions become texts with
symbols in them, Fn::If and mappings become choices with formulas. What is not known before
deployment is a symbol without a value to choose, or ``Opaque``.

Source: https://docs.aws.amazon.com/AWSCloudFormation/latest/UserGuide/intrinsic-function-reference.html
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, NamedTuple, TypeAlias

from generator.deployments import dynamic_references
from generator.deployments.comparisons import equal_texts, is_known, joined, known
from generator.deployments.formulas import (
    Formula,
    Free,
    Is,
    Items,
    Symbol,
    Text,
    every,
    negated,
    some,
)
from generator.deployments.parameters import symbol_of
from generator.deployments.splitting import split_symbol
from generator.deployments.surroundings import (
    KEY_ID_LANGUAGE,
    NAME_LANGUAGE,
    NAME_MAX,
    STACK_LANGUAGE,
    STACK_NAME_MAX,
    URL_SUFFIX_LANGUAGE,
    URL_SUFFIXES,
    Surroundings,
)
from generator.nodes import UncertainText, mapping, references, scalar_text, spreads
from generator.policy.operators import listed

if TYPE_CHECKING:
    from generator.nodes import Path

_REWRITTEN = {"Fn::Transform": "it may write any key"}
"""Replaces a level of a mapping whose keys are not known."""
_UNCERTAIN = "a number without quotes, which CloudFormation may write in another way"
ALTERNATIVES_MAX = 64
"""The most alternatives of a text; one with more becomes a symbol without a value to choose."""


class Opaque(NamedTuple):
    """A node of which nothing is known; ``why`` is the reason."""

    why: str


class NoValue(NamedTuple):
    """AWS::NoValue: the property or the item is absent."""


class Composed:
    """A text with symbols, as a node inside a policy that is itself a text."""

    def __init__(self, text: Text) -> None:
        """Represent *text*."""
        self.text = text


class Located(NamedTuple):
    """A node of the template that is a list or a mapping, with its path."""

    node: object
    path: Path


class Written(NamedTuple):
    """A text with symbols."""

    text: Text


class Encoded(NamedTuple):
    """A text that is a mapping of the template as JSON, with the mapping's path."""

    document: object
    path: Path


Node: TypeAlias = Opaque | NoValue | Located | Written | Encoded | Items
Alternative: TypeAlias = tuple[Formula, Node]


class Template:
    """A decoded template, and what its nodes may be."""

    def __init__(self, template: Mapping[str, object], around: Surroundings | None = None) -> None:
        """Read *template*, which may be malformed."""
        self.template = template
        self.around = around or Surroundings()
        self.conditions_used: dict[str, Formula] = {}
        self.parameters: dict[str, Symbol | Items] = {
            str(name): symbol_of(str(name), mapping(declaration))
            for name, declaration in mapping(template.get("Parameters")).items()
        }
        self.attributes: dict[str, Symbol] = {}
        self.selected: dict[tuple[str, int], Symbol] = {}
        self._evaluating: set[str] = set()
        self.optional = 0
        self.needed: Formula = False
        self.refused: list[Formula] = []

    # --- conditions ---

    def holds(self, condition: object) -> Formula:
        """Return whether the condition with this name holds, as a formula."""
        name = str(condition)
        if name not in self.conditions_used:
            if name in self._evaluating:
                return Free(f"condition {name} refers to itself")
            self._evaluating.add(name)
            conditions = mapping(self.template.get("Conditions"))
            with self.evaluated(True):  # noqa: FBT003 - CloudFormation evaluates all conditions
                self.conditions_used[name] = (
                    Free(f"a transform may replace the condition {name}")
                    if spreads(conditions)
                    else self._truth(conditions.get(name), name)
                )
            self._evaluating.discard(name)
        return self.conditions_used[name]

    @contextmanager
    def evaluated(self, when: Formula) -> Iterator[None]:
        """Assume that CloudFormation evaluates what is read in this block if *when* holds.

        Then it refuses a missing key. It does not evaluate the branch of Fn::If that it does not
        take.
        """
        before = self.needed, self.optional
        self.needed, self.optional = when, 0
        try:
            yield
        finally:
            self.needed, self.optional = before

    def _truth(self, node: object, where: str) -> Formula:
        test = mapping(node)
        name = next(iter(test), "")
        arguments = listed(test.get(name))
        if name == "Condition":
            return self.holds(test[name])
        if name == "Fn::Equals" and len(arguments) == len(("left", "right")):
            return self._equal(arguments[0], arguments[1], where)
        if name == "Fn::Not" and arguments:
            return negated(self._truth(arguments[0], where))
        if name in ("Fn::And", "Fn::Or"):
            join = every if name == "Fn::And" else some
            return join(self._truth(item, where) for item in arguments)
        return Free(f"condition {where} cannot be evaluated before deployment")

    def _equal(self, left: object, right: object, where: str) -> Formula:
        cases: list[Formula] = []
        for first, one in self.texts(left):
            for second, other in self.texts(right):
                if isinstance(one, Opaque) or isinstance(other, Opaque):
                    why = f"condition {where} compares values that are not known before deployment"
                    cases.append(every((first, second, Free(why))))
                else:
                    cases.append(every((first, second, equal_texts(one, other))))
        return some(cases)

    # --- nodes ---

    def alternatives(self, node: object, path: Path = ()) -> list[Alternative]:  # noqa: PLR0911 - cases
        """Return what *node* may be, each with the formula for when it is."""
        if isinstance(node, Mapping):
            name = str(next(iter(node), ""))
            if len(node) == 1 and (name == "Ref" or name.startswith("Fn::")):
                return self._called(name, node[next(iter(node))], path)
            if any(str(key).startswith("Fn::") for key in node):
                return [(True, Opaque("a transform or a loop writes it"))]
            if dynamic_references.is_keyed(node):
                return [(True, Opaque(dynamic_references.REASON))]
            return [(True, Located(node, path))]
        if isinstance(node, list):
            return [(True, Located(node, path))]
        if isinstance(node, Composed):
            return [(True, Written(dynamic_references.resolved(node.text)))]
        if node is None:
            return [(True, Opaque("it is null"))]
        text = scalar_text(node)
        if text is None:
            return [(True, Opaque(_UNCERTAIN))]
        return [(True, Written(dynamic_references.resolved((text,))))]

    def texts(self, node: object) -> list[tuple[Formula, Text | Opaque]]:
        """Return what *node* may be as a text."""
        found: list[tuple[Formula, Text | Opaque]] = []
        for when, each in self.alternatives(node):
            if isinstance(each, Written):
                found.append((when, each.text))
            else:
                found.append(
                    (when, each if isinstance(each, Opaque) else Opaque("it is not a text"))
                )
        return found

    def items(self, node: object, path: Path = ()) -> Iterator[tuple[Formula, Node, Path]]:
        """Yield every item that a list, or a single value instead of it, may have."""
        for when, each in self.alternatives(node, path):
            if isinstance(each, Located) and isinstance(each.node, list):
                for index, item in enumerate(each.node):
                    for also, inner in self.alternatives(item, (*each.path, index)):
                        if isinstance(inner, Located) and isinstance(inner.node, list):
                            yield every((when, also)), Opaque("a list in a list"), inner.path
                        elif not isinstance(inner, NoValue):
                            place = inner.path if isinstance(inner, Located) else each.path
                            yield every((when, also)), inner, place
            elif not isinstance(each, NoValue):
                yield when, each, each.path if isinstance(each, Located) else path

    def _called(self, function: str, argument: object, path: Path) -> list[Alternative]:  # noqa: PLR0911
        arguments = listed(argument)
        if function == "Fn::If" and isinstance(argument, list) and len(argument) == 3:  # noqa: PLR2004 - condition, then, else
            return self._chosen(argument, path)
        if function == "Ref" and isinstance(argument, str):
            return self._reference(argument)
        if function == "Fn::GetAtt" and arguments:
            parts = argument.split(".") if isinstance(argument, str) else arguments
            return [(True, self._attribute(str(parts[0]), ".".join(map(str, parts[1:]))))]
        if function == "Fn::Sub" and arguments and isinstance(arguments[0], str):
            return self._substituted(arguments[0], mapping((*arguments, None)[1]))
        if function == "Fn::Join" and len(arguments) == 2:  # noqa: PLR2004 - delimiter and list
            return self._joined(arguments[0], arguments[1])
        if function == "Fn::FindInMap" and len(arguments) >= len(("map", "key", "key")):
            return self._mapped(arguments, path)
        if function == "Fn::Select" and len(arguments) == 2:  # noqa: PLR2004 - index and list
            return self._picked(arguments[0], arguments[1], path)
        if function == "Fn::Split" and len(arguments) == 2:  # noqa: PLR2004 - delimiter and text
            return self._split(arguments[0], arguments[1])
        if function == "Fn::ToJsonString":
            return self._as_json(argument, path)
        return [(True, Opaque(f"{function} is not known before deployment"))]

    def _as_json(self, node: object, path: Path) -> list[Alternative]:
        """Return what *node* may be; a dynamic reference's value may end a string in the JSON."""
        named = [self.parameters.get(name) for name in references(node)]
        symbols = [each.item if isinstance(each, Items) else each for each in named]
        if dynamic_references.is_within(node) or any(
            dynamic_references.may_contain(each.language, dynamic_references.START[0])
            for each in symbols
            if each is not None
        ):
            return [(True, Opaque(dynamic_references.REASON))]
        return [
            (when, Encoded(each.node, each.path))
            if isinstance(each, Located) and isinstance(each.node, Mapping)
            else (when, Opaque("Fn::ToJsonString of something other than an object"))
            for when, each in self.alternatives(node, path)
        ]

    def _chosen(self, branches: Sequence[object], path: Path) -> list[Alternative]:
        condition = self.holds(branches[0])
        found: list[Alternative] = []
        self.optional += 1
        for index, when in ((1, condition), (2, negated(condition))):
            if when is not False:
                for also, each in self.alternatives(branches[index], (*path, "Fn::If", index)):
                    found.append((every((when, also)), each))
        self.optional -= 1
        return found

    def _reference(self, name: str) -> list[Alternative]:
        if name == "AWS::NoValue":
            return [(True, NoValue())]
        if name in self.parameters:
            found = self.parameters[name]
            return [(True, found if isinstance(found, Items) else Written((found,)))]
        if name == "AWS::URLSuffix":
            partitions = {each: Is(self.around.partition, each) for each in URL_SUFFIXES}
            known_ones = [
                (when, Written((URL_SUFFIXES[each],))) for each, when in partitions.items()
            ]
            other = self._symbol(name, Symbol(name, URL_SUFFIX_LANGUAGE, usual=("amazonaws.eu",)))
            return [*known_ones, (negated(some(partitions.values())), Written((other,)))]
        pseudo = {
            "AWS::Partition": self.around.partition,
            "AWS::Region": self.around.region,
            "AWS::AccountId": self.around.account,
        }
        if name in pseudo:
            return [(True, Written((pseudo[name],)))]
        if name == "AWS::StackName":
            stack = self._symbol(name, Symbol(name, STACK_LANGUAGE, STACK_NAME_MAX))
            return [(True, Written((stack,)))]
        return [(True, self._attribute(name, "Ref"))]

    def _symbol(self, name: str, made: Symbol) -> Symbol:
        return self.attributes.setdefault(name, made)

    def _attribute(self, resource: str, attribute: str) -> Node:
        body = mapping(mapping(self.template.get("Resources")).get(resource))
        around = self.around
        name = f"{resource}.{attribute}"
        if body.get("Type") in ("AWS::KMS::Key", "AWS::KMS::ReplicaKey"):
            key_id = self._symbol(f"{resource}.Ref", Symbol(f"{resource}.Ref", KEY_ID_LANGUAGE, 36))
            if attribute in ("Ref", "KeyId"):
                return Written((key_id,))
            if attribute == "Arn":
                where = ("arn:", around.partition, ":kms:", around.region, ":", around.account)
                return Written((*where, ":key/", key_id))
        if body.get("Type") == "AWS::IAM::Role" and attribute in ("Arn", "Ref"):
            return self._role(resource, mapping(body.get("Properties")), attribute)
        why = f"{name.removesuffix('.Ref')} is known only after deployment"
        return Written((self._symbol(name, Symbol(name, why=why)),))

    def _role(self, name: str, properties: Mapping[str, object], attribute: str) -> Node:
        own = Symbol(f"{name}.Ref", NAME_LANGUAGE, NAME_MAX, usual=(name,))
        role = (
            self._single(properties["RoleName"])
            if "RoleName" in properties
            else (self._symbol(f"{name}.Ref", own),)
        )
        path = self._single(properties.get("Path", "/"))
        if attribute == "Ref":
            return Written(role)
        around = self.around
        arn = ("arn:", around.partition, ":iam::", around.account, ":role", *path, *role)
        return Written(dynamic_references.resolved(joined(arn)))

    def _single(self, node: object) -> Text:
        """Return a text that represents everything that *node* may be."""
        found = self.texts(node)
        if len(found) == 1 and not isinstance(found[0][1], Opaque):
            return found[0][1]
        return (Symbol("a name", why="it depends on conditions"),)

    def _combined(self, parts: Sequence[list[tuple[Formula, Text | Opaque]]]) -> list[Alternative]:
        """Return every combination of alternatives of *parts* in sequence."""
        found: list[tuple[Formula, Text]] = [(True, ())]
        for part in parts:
            found = [
                (every((when, also)), joined((*text, *_as_text(more))))
                for when, text in found
                for also, more in part
            ]
            if len(found) > ALTERNATIVES_MAX:
                return [(True, Opaque("it has too many alternatives"))]
        return [(when, Written(dynamic_references.resolved(text))) for when, text in found]

    def _substituted(self, template: str, own: Mapping[str, object]) -> list[Alternative]:
        if isinstance(template, UncertainText):
            return [(True, Opaque(_UNCERTAIN))]
        if any(re.search("[.:]", str(name)) for name in own):
            return [(True, Opaque("Fn::Sub redefines an attribute or a pseudo parameter"))]
        parts: list[list[tuple[Formula, Text | Opaque]]] = []
        for index, piece in enumerate(re.split(r"\$\{([^}]*)\}", template)):
            name = piece.strip()
            if index % 2 == 0:
                parts.append([(True, (piece,))])
            elif "${" in name:
                return [(True, Opaque("Fn::Sub has ${ inside ${...}"))]
            elif name.startswith("!"):
                parts.append([(True, (f"${{{name[1:]}}}",))])
            elif name in own:
                parts.append(self.texts(own[name]))
            elif "." in name:
                parts.append(self.texts({"Fn::GetAtt": name}))
            else:
                parts.append(self.texts({"Ref": name}))
        return self._combined(parts)

    def _joined(self, delimiter: object, items: object) -> list[Alternative]:
        if not isinstance(delimiter, str) or isinstance(delimiter, UncertainText):
            return [(True, Opaque("a delimiter that is not a text"))]
        if not isinstance(items, list):
            text = json.dumps(items, default=str, sort_keys=True)
            whole = Symbol(f"Fn::Join of {text}", why="a joined list is not known")
            return [(True, Written((self._symbol(text, whole),)))]
        parts: list[list[tuple[Formula, Text | Opaque]]] = []
        for item in items:
            found = self.alternatives(item)
            if any(isinstance(each, NoValue) for _, each in found) and len(found) > 1:
                return [(True, Opaque("a joined list whose length depends on conditions"))]
            if not any(isinstance(each, NoValue) for _, each in found):
                parts += [[(True, (delimiter,))]] if parts else []
                parts.append(self.texts(item))
        return self._combined(parts)

    def _mapped(self, arguments: Sequence[object], path: Path) -> list[Alternative]:
        levels: list[tuple[Formula, object]] = [(True, self.template.get("Mappings"))]
        default = mapping((*arguments, None)[3]).get("DefaultValue")
        for key in arguments[:3]:
            following: list[tuple[Formula, object]] = []
            for when, level in levels:
                following += self._entries(when, mapping(level), key)
            levels = following
            if len(levels) > ALTERNATIVES_MAX:
                return [(True, Opaque("a mapping with too many keys"))]
        found: list[Alternative] = []
        for when, value in levels:
            for also, each in self.alternatives(value, path):
                found.append((every((when, also)), each))
        missing = negated(some(when for when, _ in levels))
        if default is not None:
            found += [(every((missing, w)), each) for w, each in self.alternatives(default, path)]
        elif missing is not False and not self.optional and self.needed is not False:
            self.refused.append(every((self.needed, missing)))
        elif missing is not False:
            found.append((missing, Opaque("a mapping may not have that key")))
        return found

    def _entries(
        self, when: Formula, level: Mapping[str, object], key: object
    ) -> Iterator[tuple[Formula, object]]:
        if spreads(level):
            yield when, _REWRITTEN
            return
        for also, text in self.texts(key):
            if isinstance(text, Opaque):
                yield every((when, also)), _REWRITTEN
                continue
            for name, value in level.items():
                written = scalar_text(name)
                if written is None:
                    same: Formula = Free(_UNCERTAIN)
                elif is_known(text):
                    same = known(text) == written
                else:
                    same = equal_texts(text, (written,))
                if same is not False:
                    yield every((when, also, same)), value

    def _picked(self, index: object, items: object, path: Path) -> list[Alternative]:
        found: list[Alternative] = []
        for when, number in self.texts(index):
            if isinstance(number, Opaque) or not is_known(number) or not known(number).isdecimal():
                return [(True, Opaque("Fn::Select by an index that is not known"))]
            place = int(known(number))
            for also, each in self.alternatives(items, path):
                together = every((when, also))
                if isinstance(each, Items):
                    found.append((together, Written((self._item(each, place),))))
                elif isinstance(each, Located) and isinstance(each.node, list):
                    found += self._nth(together, each, place)
                else:
                    found.append((together, Opaque("Fn::Select from an unknown list")))
        return found

    def _nth(self, when: Formula, items: Located, index: int) -> Iterator[Alternative]:
        """Yield what the item at *index* may be; AWS does not say whether absent ones count."""
        assert isinstance(items.node, list)  # noqa: S101 - for the type checker
        every_item = [self.alternatives(item, items.path) for item in items.node]
        absent = any(isinstance(each, NoValue) for item in every_item for _, each in item)
        if absent or index >= len(every_item):
            yield when, Opaque("Fn::Select from a list that may not have that item")
            return
        for also, each in every_item[index]:
            yield every((when, also)), each

    def _item(self, items: Items, index: int) -> Symbol:
        name = f"{items.name}[{index}]"
        made = Symbol(name, items.item.language, usual=items.item.usual, member_of=items)
        return self.selected.setdefault((items.name, index), made)

    def _split(self, delimiter: object, node: object) -> list[Alternative]:
        found: list[Alternative] = []
        for when, text in self.texts(node):
            if isinstance(text, Opaque) or not isinstance(delimiter, str) or not delimiter:
                found.append((when, Opaque("Fn::Split of an unknown text")))
            elif any(piece.why for piece in text if isinstance(piece, Symbol)):
                found.append((when, Opaque("Fn::Split of a text from outside the template")))
            elif is_known(text):
                found.append((when, Located(known(text).split(delimiter), ())))
            elif len(text) == 1 and isinstance(text[0], Symbol) and len(delimiter) == 1:
                found.append((when, split_symbol(text[0], delimiter)))
            else:
                found.append((when, Opaque("Fn::Split of a joined text")))
        return found


def _as_text(text: Text | Opaque) -> Text:
    return (Symbol("a part", why=text.why),) if isinstance(text, Opaque) else text
