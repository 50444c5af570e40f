"""Whether a record meets a rule's condition: the tree that pySigma makes of it, turned into a function of one record.

After the Sigma specification 2 (https://sigmahq.io/sigma-specification/): texts are compared whole and in any case, `*`
and `?` stand for any letters and any one; regular expressions look at case and may match anywhere in a value; `null` is
a field without a value. Two things it leaves to whoever evaluates, and here they are so:

- A field `a.b.c` is looked up key by key. A list on the way, or at the end, stands for each of its items: a condition
  is met if one of them meets it.
- A value that is no text is compared as JSON writes it, and one with keys of its own as compact JSON, in which `\\"` is
  `"`: CloudTrail keeps policies as JSON within a text.
"""

import ipaddress
import json
import operator
import re
from collections.abc import Callable, Iterable
from typing import Any

from sigma.conditions import (
    ConditionAND,
    ConditionFieldEqualsValueExpression,
    ConditionNOT,
    ConditionOR,
    ConditionValueExpression,
)
from sigma.types import (
    CompareOperators,
    SigmaBool,
    SigmaCasedString,
    SigmaCIDRExpression,
    SigmaCompareExpression,
    SigmaExists,
    SigmaExpansion,
    SigmaFieldReference,
    SigmaNull,
    SigmaNumber,
    SigmaRegularExpression,
    SigmaString,
    SigmaTimestampPart,
    SigmaType,
    SpecialChars,
)

from shared.rules.rule import Predicate, Record

_Test = Callable[[Any], bool]  # of one value of a field

_COMPARISONS = {
    CompareOperators.LT: operator.lt,
    CompareOperators.LTE: operator.le,
    CompareOperators.GT: operator.gt,
    CompareOperators.GTE: operator.ge,
    CompareOperators.NEQ: operator.ne,
}


# By what a reference has: startswith, endswith; both are contains.
_REFERENCES: dict[tuple[bool, bool], Callable[[str, str], bool]] = {
    (False, False): lambda mine, other: mine == other,
    (True, False): lambda mine, other: mine.startswith(other),
    (False, True): lambda mine, other: mine.endswith(other),
    (True, True): lambda mine, other: other in mine,
}


class UnsupportedError(ValueError):
    """A condition needs what can't be evaluated on one record by itself; the message says what."""


def predicate(condition: object) -> Predicate:
    """The function that says whether a record meets a parsed condition.

    Args:
        condition: what pySigma's `SigmaCondition.parsed` gives.

    Raises:
        UnsupportedError: a part of it can't be evaluated.
    """
    match condition:
        case ConditionAND(args=args):
            every = [predicate(arg) for arg in args]
            return lambda record: all(part(record) for part in every)
        case ConditionOR(args=args):
            some = [predicate(arg) for arg in args]
            return lambda record: any(part(record) for part in some)
        case ConditionNOT(args=[arg]):
            negated = predicate(arg)
            return lambda record: not negated(record)
        case ConditionFieldEqualsValueExpression(field=field, value=value):
            return _of_field(tuple(field.split(".")), value)
        case ConditionValueExpression(value=value):
            return _of_keyword(value)
    raise UnsupportedError("its condition names no part of the rule")


def texts_needed(condition: object, field: str) -> frozenset[str] | None:
    """The texts of which a record must have one in a field to meet a condition, case-folded; None: it may have any.

    By them the few rules are found that one record can meet at all.
    """
    match condition:
        case ConditionFieldEqualsValueExpression(field=name, value=SigmaString() as value) if name == field:
            return None if value.contains_special() else frozenset({_plain(value).casefold()})
        case ConditionAND(args=args):
            needed = [texts_needed(arg, field) for arg in args]
            return min((texts for texts in needed if texts is not None), key=len, default=None)
        case ConditionOR(args=args):
            needed = [texts_needed(arg, field) for arg in args]
            return None if None in needed else frozenset[str]().union(*(texts or () for texts in needed))
    return None


def values_at(record: Any, keys: tuple[str, ...]) -> list[Any]:
    """The values that a path of keys leads to; none where the record has no such field, or it is null."""
    found = [record]
    for key in keys:
        found = [value[key] for value in _items(found) if isinstance(value, dict) and key in value]
    return [value for value in _items(found) if value is not None]


def text_of(value: Any) -> str:
    """A value as rules compare it."""
    if isinstance(value, str):
        return value
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":"))
    return text.replace('\\"', '"') if isinstance(value, dict) else text


def _items(values: Iterable[Any]) -> Iterable[Any]:
    for value in values:
        if isinstance(value, list):
            yield from _items(value)
        else:
            yield value


def _of_field(keys: tuple[str, ...], value: SigmaType) -> Predicate:
    match value:
        case SigmaNull():
            return lambda record: not values_at(record, keys)
        case SigmaExists(exists=exists):
            return lambda record: bool(values_at(record, keys)) is exists
        case SigmaExpansion(values=values):
            some = [_of_field(keys, each) for each in values]
            return lambda record: any(part(record) for part in some)
        case SigmaFieldReference():
            return _of_two_fields(keys, value)
    test = _test(value)
    return lambda record: any(test(found) for found in values_at(record, keys))


def _of_two_fields(keys: tuple[str, ...], reference: SigmaFieldReference) -> Predicate:
    others = tuple(reference.field.split("."))
    compare = _REFERENCES[reference.starts_with, reference.ends_with]

    def meets(record: Record) -> bool:
        theirs = [text_of(value).casefold() for value in values_at(record, others)]
        mine = [text_of(value).casefold() for value in values_at(record, keys)]
        return any(compare(one, other) for one in mine for other in theirs)

    return meets


def _of_keyword(value: SigmaType) -> Predicate:
    """A value without a field may stand anywhere in the record."""
    match value:
        case SigmaExpansion(values=values):
            some = [_of_keyword(each) for each in values]
            return lambda record: any(part(record) for part in some)
        case SigmaString():
            test = _test(SpecialChars.WILDCARD_MULTI + value + SpecialChars.WILDCARD_MULTI)
        case SigmaNumber(number=number):
            test = _test(SigmaString(f"*{number}*"))
        case SigmaRegularExpression():
            test = _test(value)
        case _:
            raise UnsupportedError(f"a {type(value).__name__} without a field")
    return lambda record: test(text_of(record))


def _test(value: SigmaType) -> _Test:
    match value:
        case SigmaTimestampPart():
            raise UnsupportedError("a modifier for a part of a time")
        case SigmaString():
            text_meets = _text_test(value)
            return lambda found: text_meets(text_of(found))
        case SigmaNumber(number=number):
            return lambda found: _number(found) == number
        case SigmaBool(boolean=boolean):
            wanted = text_of(boolean)
            return lambda found: text_of(found).casefold() == wanted
        case SigmaRegularExpression(regexp=regexp, flags=flags):
            compiled = re.compile(
                str(regexp), sum(SigmaRegularExpression.sigma_to_python_flags[flag] for flag in flags)
            )
            return lambda found: compiled.search(text_of(found)) is not None
        case SigmaCIDRExpression(network=network):
            return lambda found: (address := _address(found)) is not None and address in network
        case SigmaCompareExpression(number=bound, op=op):
            compare, limit = _COMPARISONS[op], bound.number
            return lambda found: (number := _number(found)) is not None and bool(compare(number, limit))
    raise UnsupportedError(f"a value of type {type(value).__name__}")


def _text_test(value: SigmaString) -> Callable[[str], bool]:
    cased = isinstance(value, SigmaCasedString)
    # In time proportional to the value, whatever it holds: pieces without repetition, each found after the one before.
    # One regular expression with a `.*` for every `*` could be made to try for hours by whoever writes the logs.
    pieces: list[list[str]] = [[]]
    width = 0  # of the last piece, letters
    for part in value.s:
        if part is SpecialChars.WILDCARD_MULTI:
            pieces.append([])
            width = 0
        elif isinstance(part, str):
            pieces[-1].append(re.escape(part))
            width += len(part)
        elif part is SpecialChars.WILDCARD_SINGLE:
            pieces[-1].append(".")
            width += 1
        else:
            raise UnsupportedError("a placeholder that nobody filled in (modifier expand)")
    if not value.contains_special():
        plain = _plain(value) if cased else _plain(value).casefold()
        return lambda text: (text if cased else text.casefold()) == plain
    flags = re.DOTALL if cased else re.DOTALL | re.IGNORECASE
    first, *others = (re.compile("".join(piece), flags) for piece in pieces)
    if not others:
        return lambda text: first.fullmatch(text) is not None
    *middle, last = others

    def meets(text: str) -> bool:
        found = first.match(text)
        for piece in middle:
            found = found and piece.search(text, found.end())
        start = len(text) - width
        return found is not None and found.end() <= start and last.fullmatch(text, start) is not None

    return meets


def _plain(value: SigmaString) -> str:
    """Of a text without wildcards; `str` would put an escape before each star in it."""
    return "".join(part for part in value.s if isinstance(part, str))


def _number(value: Any) -> float | None:
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return None
    try:
        return float(value)
    except (ValueError, OverflowError):
        return None


def _address(value: Any) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        return ipaddress.ip_address(value) if isinstance(value, str) else None
    except ValueError:
        return None
