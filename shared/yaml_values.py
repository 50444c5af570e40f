"""YAML with one reading, and what its values are called when they are told to a person."""

import re
from collections.abc import Hashable
from typing import Any

import yaml

_NAMES = {type(None): "nothing", bool: "true/false", int: "a whole number", float: "a number", str: "a text"}
_MOST_LEVELS = 20


class UniqueKeyLoader(yaml.SafeLoader):
    """PyYAML keeps the last of two equal keys without a word; a setting given twice is a mistake, so it is an error."""

    depth = 0

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        # Nine lines of aliases to aliases stand for a billion values, and neither settings nor rules need one.
        if self.check_event(yaml.AliasEvent):
            raise self._refusal("an alias (*name), which has no use here")
        if self.depth == _MOST_LEVELS:
            raise self._refusal(f"nested deeper than {_MOST_LEVELS} levels")
        self.depth += 1
        node = super().compose_node(parent, index)
        self.depth -= 1
        return node

    def _refusal(self, problem: str) -> yaml.composer.ComposerError:
        mark = self.peek_event().start_mark  # type: ignore[no-untyped-call]
        return yaml.composer.ComposerError(None, None, problem, mark)

    def construct_object(self, node: yaml.Node, deep: bool = False) -> Any:
        try:
            return super().construct_object(node, deep=deep)
        except ValueError as error:  # a day 2026-02-31, or a number of more digits than Python reads
            raise yaml.constructor.ConstructorError(None, None, str(error), node.start_mark) from None

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        keys = [self.construct_object(key, deep=deep) for key, _ in node.value]
        keys = [key for key in keys if isinstance(key, Hashable)]  # the others are refused below
        seen: set[Hashable] = set()
        for key in keys:
            if key in seen:
                raise yaml.constructor.ConstructorError(None, None, f"key {key!r} is given twice", node.start_mark)
            seen.add(key)
        return super().construct_mapping(node, deep=deep)


def parse_yaml(text: str) -> Any:
    """The value that the text stands for.

    Raises:
        ValueError: not YAML, a key given twice, or a tag that would run code; the message is one line.
    """
    try:
        return yaml.load(text, Loader=UniqueKeyLoader)  # noqa: S506 (a SafeLoader)
    except yaml.YAMLError as error:
        raise ValueError(_in_one_line(error)) from None


def parse_yaml_documents(text: str) -> list[Any]:
    """The values that the text stands for, one for each document in it.

    Raises:
        ValueError: as in `parse_yaml`.
    """
    try:
        return list(yaml.load_all(text, Loader=UniqueKeyLoader))
    except yaml.YAMLError as error:
        raise ValueError(_in_one_line(error)) from None


def _in_one_line(error: yaml.YAMLError) -> str:
    text = " ".join(str(error).split()).replace(' in "<unicode string>",', ",")  # what was read is named beside it
    return f"not valid YAML: {text}"


def found(value: Any, wanted: str) -> str:
    """What kind of value this is, and for a number such as 1e-3 how YAML wants it where a number was wanted."""
    name = _NAMES.get(type(value)) or {list: "a list"}.get(type(value), type(value).__name__)
    if wanted == "number" and isinstance(value, str) and re.fullmatch(r"[-+]?\d+(\.\d*)?e[-+]?\d+", value, re.I):
        return f"{name} (YAML needs a dot and a sign in it: 1.0e-3)"
    return name
