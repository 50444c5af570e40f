"""Records out of whatever carries them: what AWS delivers, what its tools print, and what log shippers and search
engines export.

| carrier | where the record is |
|---|---|
| S3 delivery, `lookup-events` | `Records`; `Events`, in `CloudTrailEvent` as text |
| CloudWatch Logs: subscription, `filter-log-events` | `logEvents`, `events`: in `message` as text |
| CloudWatch Logs Insights | `results`: rows of fields and values, in `@message` as text |
| EventBridge | `detail` |
| `sqs receive-message`, SQS and SNS to Lambda | `Messages`, `Records`: in `Body`, `body`, `Sns.Message` as text |
| Firehose, Kinesis, Lambda | `records`, `Records`, `awslogs`: in `data`, `Data`, packed and in base64 |
| CloudTrail Lake `get-query-results` | `QueryResultRows`: lists of objects of one key; in `eventJson` as text |
| Athena `get-query-results` | `ResultSet`: a row is a list of cells under the names of the columns |
| Elastic, Logstash, Filebeat | `hits`, `_source`, `fields` of lists; in `event.original` or `message` as text |
| Splunk, its HTTP event collector | `results`, `result`, `event`, also as text; in `_raw` as text |
| Pub/Sub | `message`: in `data`, in base64 |
| audit webhook of Kubernetes | `items` of an `EventList` |

Each may stand in any other, and a record within a text may be JSON, JSON in base64, or a line of a log. What is called
otherwise is opened where one field alone holds a record.
"""

import base64
import io
import itertools
import json
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from shared.data_sources.cloudtrail_keys import fields_in, is_field, without_prefix
from shared.data_sources.files import opened_json
from shared.data_sources.json_values import LIST_KEYS, JsonValues, Value

MOST_LEVELS = 8  # of carriers in each other
MOST_UNPACKED = 64 << 20  # bytes that one packed text may hold; CloudWatch packs some hundred kB together
TEXT_KEYS = ("CloudTrailEvent", "eventJson", "message", "@message", "_raw", "log", "Message", "body", "Body")
_OBJECT_KEYS = ("detail", "_source", "result", "kinesis", "awslogs", "Sns", "log", "message", "event")
_LISTS_OF_RECORDS = LIST_KEYS - {"hits", "value"}  # by their names; the others may be those of one value
_PACKED_KEYS = ("data", "Data")
# How base64 of {", of {, a blank and a quote, of a list, and of gzip begins.
_BASE64 = ("eyJ", "eyAi", "ewog", "ewoi", "W3si", "H4sI")
_OPENING = frozenset("{[ \t\r\neWH")
_PLAIN = frozenset({int, float, bool, type(None)})
_MOST_CANDIDATES = 64  # fields of an object that are looked into for a record
CONTROL = "control message of CloudWatch Logs"
NOTHING = "values that hold nothing"  # which tools write where a query finds nothing


class LeftOut(str):
    """What is no record and no damage: its kind, for a person."""


def is_event(value: dict[str, Any]) -> bool:
    """Whether an object is a CloudTrail record itself, whatever else is in it, and however its keys are spelt.

    Where some of its fields alone stand beside the whole record as text, as in a search engine's answers, it is not.
    """
    if isinstance(value.get("userIdentity"), dict) and "eventName" in value and "eventSource" in value:
        return True
    if not {"eventName", "eventSource"} <= fields_in(value):
        return False
    texts = [value[key] for key in TEXT_KEYS if key in value]
    return not any(isinstance(text, str) and text.lstrip()[:1] == "{" for text in texts)


IsRecord = Callable[[dict[str, Any]], bool]


def records(path: Path, is_record: IsRecord = is_event) -> Iterator[Value]:
    """The records of a file of JSON, in bounded memory: objects, and texts that are lines of a log.

    Args:
        path: the file.
        is_record: whether an object is a record itself, in which no other is looked for.

    Yields:
        A record, or what is broken and why, or a `LeftOut` in its place; each with its place in the file.

    Raises:
        OddFileError: the file is damaged or cut off as a packed file; as JSON it is a broken value.
        DataError: it can't be read.
    """
    with opened_json(path) as text:
        for found in JsonValues(text):
            if found.broken:
                yield found
                continue
            if not found.item and found.value in ({}, "null"):
                yield Value(found.line, found.item, LeftOut(NOTHING))
            elif isinstance(found.value, dict) and is_record(found.value):  # as most are
                yield found
            else:
                yield from within(found, is_record)


def within(found: Value, is_record: IsRecord) -> Iterator[Value]:
    """The records in one value, each at its place."""
    for record in unwrapped(found.value, is_record):
        if isinstance(record, Value):  # of a text within
            yield Value(found.line, found.item, record.value, record.broken)
        else:
            yield Value(found.line, found.item, record)


def unwrapped(value: Any, is_record: IsRecord = is_event, level: int = 0) -> Iterator[Any]:
    """The records in one value; what carries none is itself the only record.

    Yields:
        Objects, texts, `LeftOut`, and of a text that is broken inside a `Value` that says how.
    """
    if level > MOST_LEVELS:
        yield Value(0, 0, broken=f"carriers in carriers to a depth of {MOST_LEVELS}")
    elif isinstance(value, list):
        row = _row(value)
        if row is not None:
            yield from unwrapped(row, is_record, level + 1)
            return
        for item in value:
            yield from unwrapped(item, is_record, level + 1)
    elif isinstance(value, str):
        yield from _of_text(value, is_record, level)
    elif isinstance(value, dict):
        yield from _of_object(value, is_record, level)
    else:
        yield value


def _of_object(value: dict[str, Any], is_record: IsRecord, level: int) -> Iterator[Any]:
    if is_record(value):
        yield value
        return
    if value.get("messageType") == "CONTROL_MESSAGE":
        yield LeftOut(CONTROL)
        return
    if value.get("kind") == "EventList" and isinstance(value.get("items"), list):
        yield from unwrapped(value["items"], is_record, level + 1)
        return
    if isinstance(value.get("ResultSet"), dict):
        yield from unwrapped(list(_query_rows(value["ResultSet"])), is_record, level + 1)
        return
    lists = [item for key, item in value.items() if key in LIST_KEYS and isinstance(item, list | dict)]
    if lists:
        for item in lists:
            yield from unwrapped(item, is_record, level + 1) if item != {} else iter((LeftOut(NOTHING),))
        return
    if any(key in _LISTS_OF_RECORDS and item is None for key, item in value.items()):
        yield LeftOut(NOTHING)
        return
    text = _text_in(value)
    if text:
        yield from _of_text(text, is_record, level + 1)
        return
    for key in _OBJECT_KEYS:
        if isinstance(value.get(key), dict):
            yield from unwrapped(value[key], is_record, level + 1)
            return
    for key in _PACKED_KEYS:
        inner = _decoded(value[key]) if isinstance(value.get(key), str) else None
        if inner is not None:
            yield from _of_text(inner, is_record, level + 1) if isinstance(inner, str) else iter((inner,))
            return
    yield from _of_unknown(value, is_record, level)


def _text_in(value: dict[str, Any]) -> str:
    """The text in an object that is the record, by where carriers have it; empty for none."""
    event = value.get("event")
    if isinstance(event, str) and event.lstrip()[:1] in ("{", "["):  # in audit logs it is a word
        return event
    original = event.get("original") if isinstance(event, dict) else value.get("event.original")
    texts = (original, *(value.get(key) for key in TEXT_KEYS))
    return next((text for text in texts if isinstance(text, str) and text.strip()), "")


def _of_unknown(value: dict[str, Any], is_record: IsRecord, level: int) -> Iterator[Any]:
    """The records in the one field of an object that has some, whatever it is called; else the object itself."""
    fields = value.get("fields")
    if isinstance(fields, dict) and fields and all(isinstance(item, list) for item in fields.values()):
        yield from unwrapped({key: item[0] if len(item) == 1 else item for key, item in fields.items()},
                             is_record, level + 1)  # fmt: skip
        return
    inner = without_prefix(value)
    # Insights events have in fields of the reference what looks like a call's.
    keys = [key for key, item in value.items() if type(item) not in _PLAIN and _may_hold(item) and not is_field(key)]
    candidates = [inner] if inner else [value[key] for key in keys]
    opened = [found for item in candidates[:_MOST_CANDIDATES] if (found := _opened(item, is_record, level)) is not None]
    yield from opened[0] if len(opened) == 1 else iter((value,))


def _may_hold(item: Any) -> bool:
    """Whether a value may have a record in it."""
    if isinstance(item, str):
        return item[:1] in _OPENING and (item.lstrip()[:1] in ("{", "[") or item.startswith(_BASE64))
    return True


def _opened(item: Any, is_record: IsRecord, level: int) -> Iterator[Any] | None:
    """What is in a value, where the first of it is a record; None for any other."""
    found = unwrapped(item, is_record, level + 1)
    first = next(found, None)
    return itertools.chain([first], found) if isinstance(first, dict) and is_record(first) else None


def _row(cells: list[Any]) -> dict[str, Any] | None:
    """One row of a query's results as an object; None where the list is no such row.

    CloudTrail Lake has a list of objects of one key each, CloudWatch Insights one of {"field": ..., "value": ...}.
    """
    if len(cells) < 2 or not all(isinstance(cell, dict) for cell in cells):
        return None
    if all(cell.keys() == {"field", "value"} for cell in cells):
        return {str(cell["field"]): cell["value"] for cell in cells}
    row = {key: item for cell in cells for key, item in cell.items()}
    is_row = all(len(cell) == 1 for cell in cells) and len(row) == len(cells) and not row.keys() & LIST_KEYS
    return row if is_row else None


def _query_rows(result: dict[str, Any]) -> Iterator[Any]:
    """The rows of an answer of Athena as objects; the first row of its first page is the header."""
    rows = result.get("Rows")
    names: list[str] = []
    for row in rows if isinstance(rows, list) else ():
        cells = row.get("Data") if isinstance(row, dict) else None
        if not isinstance(cells, list) or not all(isinstance(cell, dict) for cell in cells):
            yield row
            continue
        texts = [cell.get("VarCharValue") for cell in cells]
        if not names:
            names = _column_names(result) or [str(text) for text in texts]
        if texts != names:
            yield {name: text for name, text in zip(names, texts, strict=False) if text is not None}


def _column_names(result: dict[str, Any]) -> list[str]:
    about = result.get("ResultSetMetadata")
    columns = about.get("ColumnInfo") if isinstance(about, dict) else None
    return [str(column["Name"]) for column in columns or () if isinstance(column, dict) and "Name" in column]


def _of_text(text: str, is_record: IsRecord, level: int) -> Iterator[Any]:
    """What a text within a record holds: JSON values one after another, else the text itself, a line of a log."""
    if text.startswith(_BASE64):
        inner = _decoded(text.strip())
        if isinstance(inner, Value):
            yield inner
            return
        text = text if inner is None else inner
    if text.lstrip()[:1] not in ("{", "["):
        yield text
        return
    for found in JsonValues(io.StringIO(text)):
        if found.broken:
            yield found
        elif isinstance(found.value, str):
            yield found.value
        else:
            yield from unwrapped(found.value, is_record, level + 1)


def _decoded(text: str) -> str | Value | None:
    """What a text in base64 holds, unpacked where it is gzip; None where it is none."""
    try:
        data = base64.b64decode(text, validate=True)
        if data[:2] == b"\x1f\x8b":
            unpacker = zlib.decompressobj(wbits=31)
            whole = unpacker.decompress(data, MOST_UNPACKED)
            if unpacker.unconsumed_tail or not unpacker.eof:
                return Value(0, 0, broken=f"packed data that is cut off, or of more than {MOST_UNPACKED} bytes")
            data = whole
        return data.decode(json.detect_encoding(data) if data else "utf-8")
    except ValueError:  # no base64, or no text in it
        return None
    except zlib.error as error:
        return Value(0, 0, broken=f"packed data that is damaged: {error}")
