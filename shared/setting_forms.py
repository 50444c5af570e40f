"""What a setting may be, and in one line what is wrong with one that can't be: key, value, and what was expected."""

import difflib
from collections.abc import Mapping, Sequence
from typing import Any

from pydantic_core import ErrorDetails

from shared.yaml_values import found

_SCALARS = {"integer": "a whole number", "number": "a number", "boolean": "true or false", "string": "a text"}
_LISTS = {
    "integer": "a whole number or a list of them, such as 16 or [64, 32]",
    "string": "a text or a list of them, such as benign or [benign, '0']",
}


def form_of(schema: dict[str, Any]) -> dict[str, Any]:
    """The `type` of a setting, and `minimum` and `maximum` or `enum`; of a list, its items.

    Args:
        schema: the setting's part of the settings' JSON schema.

    `own` is the form of a name of the operator's own code, where a setting takes one.
    """
    forms: list[dict[str, Any]] = schema.get("anyOf", [schema])
    form = dict(forms[0])
    if "const" in form:  # a choice of one
        form["enum"] = [form["const"]]
    for other in forms[1:]:
        form |= {"own": other["title"]} if "pattern" in other else {"list": True}
    return form


def refusal(error: ErrorDetails, values: Mapping[Any, Any], schemas: Mapping[str, dict[str, Any]]) -> str:
    """What pydantic found, in one line.

    Args:
        error: of one setting.
        values: all settings as they were given.
        schemas: the JSON schema of each setting that there is.
    """
    key = error["loc"][0]
    value = values[key]
    if key not in schemas:
        advice = _nearest(str(key), schemas) or "config/config.yaml lists every key"
        return f"{key}: unknown key (value {value!r}); {advice}"
    form = form_of(schemas[str(key)])
    if "enum" in form:
        near = _nearest(str(value), form["enum"])
        expected = ", ".join(choice or '""' for choice in form["enum"])
        expected += f", or {form['own']} of your own" if "own" in form else ""
        expected += f"; {near}" if near else ""
        return f"{key} = {value!r}: expected one of {expected}"
    if error["type"] in ("greater_than_equal", "less_than_equal", "finite_number"):
        return f"{key} = {value!r}: expected {form['minimum']:g} to {form['maximum']:g}"
    if "list" in form:
        return f"{key} = {value!r}: expected {_LISTS[form['type']]}"
    return f"{key} = {value!r}: expected {_SCALARS[form['type']]}, found {found(value, form['type'])}"


def _nearest(text: str, known: Sequence[str] | Mapping[str, Any]) -> str:
    near = difflib.get_close_matches(text, known, n=1)
    return f"did you mean {near[0]!r}?" if near else ""
