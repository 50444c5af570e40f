"""YAML with one reading, and what its values are called when they are told to a person."""

import re
from typing import Any

import yaml

_NAMES = {type(None): "nothing", bool: "true/false", int: "a whole number", float: "a number", str: "a text"}


class UniqueKeyLoader(yaml.SafeLoader):
    """PyYAML keeps the last of two equal keys without a word; a setting given twice is a mistake, so it is an error."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        keys = [self.construct_object(key, deep=deep) for key, _ in node.value]
        for key in keys:
            if keys.count(key) > 1:
                raise yaml.constructor.ConstructorError(None, None, f"key {key!r} is given twice", node.start_mark)
        return super().construct_mapping(node, deep=deep)


def parse_yaml(text: str) -> Any:
    """The value that the text stands for.

    Raises:
        ValueError: not YAML, a key given twice, or a tag that would run code; the message is one line.
    """
    try:
        return yaml.load(text, Loader=UniqueKeyLoader)  # noqa: S506 (a SafeLoader)
    except yaml.YAMLError as error:
        raise ValueError(f"not valid YAML: {' '.join(str(error).split())}") from None


def found(value: Any, wanted: str) -> str:
    """What kind of value this is, and for a number such as 1e-3 how YAML wants it where a number was wanted."""
    name = _NAMES.get(type(value)) or {list: "a list"}.get(type(value), type(value).__name__)
    if wanted == "number" and isinstance(value, str) and re.fullmatch(r"[-+]?\d+(\.\d*)?e[-+]?\d+", value, re.I):
        return f"{name} (YAML needs a dot and a sign in it: 1.0e-3)"
    return name
