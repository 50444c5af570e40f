"""A file or folder of findings, of any of the forms in `formats`, and of several at once."""

import logging
from collections import Counter
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path
from typing import Any

from shared.data_sources import files as data_files
from shared.data_sources.broken_lines import BrokenLines
from shared.data_sources.files import opened_json
from shared.data_sources.json_values import JsonValues, begins_as_json, json_within
from shared.errors import DataError, OddFileError
from shared.findings.finding import Finding, FindingSet
from shared.findings.formats import LeftOutError, finding_of, is_finding

_log = logging.getLogger("labels")
_LISTS = ("Findings", "findings", "Records", "records", "Events", "events", "hits")
_OBJECTS = ("detail", "_source", "Sns")
_TEXTS = ("Message", "message", "body", "@message")
_MOST_LEVELS = 8  # of carriers in each other


def files_below(path: Path) -> list[Path]:
    """The files that `load_findings` reads, in that order.

    Raises:
        DataError: there is none.
    """
    return data_files.list_files(path, (".json", ".jsonl", ".ndjson"), begins_as_json)


def load_findings(path: Path, max_broken_share: float) -> FindingSet:
    """Read all findings; nothing is read twice while it is unchanged.

    Args:
        path: a file or a folder, plain or packed.
        max_broken_share: share of what is in it that may be no finding.

    Raises:
        DataError: nothing is there, a file can't be read, or too much of it is broken or no finding.
    """
    states = tuple((file, file.stat().st_mtime_ns, file.stat().st_size) for file in files_below(path))
    return _load(path, states, max_broken_share)


@lru_cache(maxsize=8)
def _load(path: Path, states: tuple[tuple[Path, int, int], ...], max_broken_share: float) -> FindingSet:
    broken = BrokenLines(path, max_broken_share)
    found: dict[str, Finding] = {}
    left_out: Counter[str] = Counter()
    for file, *_ in states:
        try:
            for where, value in _values(file, broken):
                broken.seen(1)
                try:
                    finding = finding_of(value)
                    found[finding.uid] = finding
                except LeftOutError as reason:
                    left_out[str(reason)] += 1
                except (ValueError, TypeError, OverflowError, OSError) as error:
                    broken.add(file, where, str(error))
        except OddFileError as error:
            broken.cut_file(error)
    broken.check()
    if not found:
        why = ", ".join(f"{number} {what}" for what, number in left_out.items()) or "no finding of any kind"
        raise DataError(
            f"findings_path {path}: nothing to learn from: {why}; expected findings of GuardDuty, Security Hub (ASFF) "
            "or OCSF class 2004"
        )
    _log.info("%s: %d findings", path, len(found))
    for what, number in left_out.items():
        _log.info("%s: left out %d: %s", path, number, what)
    return FindingSet(tuple(found.values()), tuple(left_out.items()))


def _values(file: Path, broken: BrokenLines) -> Iterator[tuple[str, dict[str, Any]]]:
    """Each finding of a file with its place; what is none is counted as broken."""
    with opened_json(file) as text:
        for found in JsonValues(text):
            if found.broken:
                broken.add(file, found.where, found.broken)
                broken.seen(1)
                continue
            for value in _unwrapped(found.value):
                if isinstance(value, dict):
                    yield found.where, value
                else:
                    broken.add(file, found.where, f"expected a finding, found {value}")
                    broken.seen(1)


def _unwrapped(value: Any, level: int = 0) -> Iterator[dict[str, Any] | str]:
    """The findings in one value, and of what carries none a few words."""
    if isinstance(value, dict) and is_finding(value):
        yield value
        return
    inner: list[Any] = []
    if isinstance(value, list):
        inner = value
    elif isinstance(value, dict):
        inner = [value[key] for key in _LISTS if isinstance(value.get(key), list | dict)]
        inner = inner or [value[key] for key in _OBJECTS if isinstance(value.get(key), dict)]
        if not inner:
            inner = [part for key in _TEXTS if (part := _parsed(value.get(key))) is not None]
        if not inner:
            yield f"an object with {', '.join(list(value)[:5]) or 'nothing in it'}"
    else:
        yield f"{value!r:.60}"
    for item in inner if level < _MOST_LEVELS else []:
        yield from _unwrapped(item, level + 1)


def _parsed(text: Any) -> Any:
    try:
        return json_within(text) if isinstance(text, str) and text.lstrip()[:1] in ("{", "[") else None
    except (ValueError, RecursionError):
        return None
