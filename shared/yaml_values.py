"""YAML as settings need it: no key twice, and each value exactly of its setting's type."""

import re
import types
from collections.abc import Hashable
from typing import Any

import yaml

from shared.errors import ConfigError

_MOST_LEVELS = 20


class UniqueKeyLoader(yaml.SafeLoader):
    """PyYAML keeps the last of two equal keys without a word; a setting given twice is a mistake, so it is an error."""

    depth = 0

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        # Nine lines of aliases to aliases stand for a billion values, and settings have no use for one.
        if self.check_event(yaml.AliasEvent):
            raise self._refusal("an alias (*name), which settings have no use for")
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


def coerce(key: str, value: Any, hint: Any) -> Any:
    """The value as its field's type; `bool` is never an `int` here, and a whole number may stand for a float."""
    if hint == tuple[int, ...]:
        items = value if isinstance(value, list) else [value]
        if not items or any(type(item) is not int for item in items):
            raise ConfigError(f"{key} = {value!r}: expected a whole number or a list of them, such as 16 or [64, 32]")
        return tuple(items)
    if hint == tuple[str, ...]:
        items = value if isinstance(value, list) else [value]
        if any(type(item) not in (str, int) for item in items):
            raise ConfigError(f"{key} = {value!r}: expected a text or a list of them, such as benign or [benign, '0']")
        return tuple(str(item) for item in items)
    if hint is float and type(value) is int:
        return float(value)
    if type(value) is not hint:
        names = {int: "a whole number", float: "a number", bool: "true or false", str: "a text"}
        hint_text = ""
        if hint is float and isinstance(value, str) and re.fullmatch(r"[-+]?\d+(\.\d*)?e[-+]?\d+", value, re.I):
            hint_text = " (YAML needs a dot and a sign in it: 1.0e-3)"
        raise ConfigError(f"{key} = {value!r}: expected {names[hint]}, found {_yaml_name(value)}{hint_text}")
    return value


def _yaml_name(value: Any) -> str:
    if isinstance(value, types.NoneType):
        return "nothing"
    return {bool: "true/false", int: "a whole number", float: "a number", str: "a text", list: "a list"}.get(
        type(value), type(value).__name__
    )
