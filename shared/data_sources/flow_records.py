"""Flow records out of the files that flow logs come in: numbers as int64, all else as texts.

| form | the fields |
|---|---|
| text, a flow a line, as in S3; in CloudWatch Logs with a time before each | header, `vpc_fields` or version 2 |
| text within JSON, as CloudWatch Logs and log shippers have it (`envelopes`) | `vpc_fields` or version 2 |
| CSV, as Athena exports a query's result; Parquet, as AWS delivers it; JSON objects | names of columns |
| Zeek's conn.log as text or JSON, Suricata's eve.json | as `flow_forms` has them |

Names may have underscores for hyphens. NODATA and SKIPDATA records tell of no flow and are left out, and counted, as
are blank lines, comments and headers that are repeated. A port of `-` is none, such as that of GRE, and counts as 0;
one in hexadecimal is its number. Times may be in milliseconds or ISO 8601; `flow_checks` has what is refused.
"""

import csv
import io
import re
from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import pandas as pd

from shared.config import Config
from shared.data_sources import files as data_files
from shared.data_sources.broken_lines import BrokenLines
from shared.data_sources.cells import texts
from shared.data_sources.envelopes import LeftOut, is_event, records
from shared.data_sources.files import opened_text
from shared.data_sources.flow_checks import NEEDED, NO_DATA, NO_FLOWS, NUMBERS, FlowCheck, Places
from shared.data_sources.flow_forms import ZEEK_NEEDS, flow_of, is_flow_object, zeek_flow
from shared.data_sources.json_values import begins_as_json
from shared.data_sources.once import tell_once
from shared.data_sources.tables import COMMENTS, REPEATED_HEADER, batches, flat, no_records, table_of
from shared.errors import DataError, OddFileError

CHUNK_LINES = 100_000
DEFAULT_FIELDS = (
    "version",
    "account-id",
    "interface-id",
    "srcaddr",
    "dstaddr",
    "srcport",
    "dstport",
    "protocol",
    "packets",
    "bytes",
    "start",
    "end",
    "action",
    "log-status",
)
BLANK_LINES = "blank lines"
_FLOW = re.compile(
    r"srcaddr|\b(ACCEPT|REJECT) (OK|NODATA|SKIPDATA)\b|\b(NODATA|SKIPDATA)\b|\bid\.orig_h\b|\"orig_h\"|"
    r"\"event_type\"\s*:.*\"src_ip\"|\"src_ip\"\s*:.*\"event_type\"",
    re.IGNORECASE,
)
_ZEEK = "#separator"  # how Zeek's logs begin
_TIME_BEFORE = re.compile(r"\d{4}-\d\d-\d\dT[\d:.]+(Z|[+-]\d\d:?\d\d)?")


def is_flow_log(head: str) -> bool:
    """Whether a file's first characters are those of flow records."""
    return head.startswith("PAR1") or _FLOW.search(head) is not None


def field_name(name: str) -> str:
    """A field as the flow logs' reference writes it. The console shows ${srcaddr}, and that is what people paste."""
    return name.strip().strip('${}"').replace("_", "-").casefold()


def flows_of(config: Config, path: Path, broken: BrokenLines) -> Iterator[pd.DataFrame]:
    """The well-formed flows of a file, some at a time, with all fields that it has, and `action` in any case.

    Args:
        config: `vpc_fields`.
        path: the file.
        broken: counts all records, broken ones, and those that are no flows.

    Raises:
        DataError: a field is missing, the file can't be read, or too many lines are broken.
    """
    before = broken.lines - broken.left_out[BLANK_LINES]
    head = data_files.head(path)
    check = FlowCheck(path, broken)
    try:
        if data_files.is_parquet(path):
            yield from _from_table(path, broken, check)
        elif begins_as_json(head):
            yield from _from_json(config, path, broken, check)
        elif head.startswith(_ZEEK):
            yield from _from_zeek(path, head, broken, check)
        elif _begins_as_table(head):
            yield from _from_table(path, broken, check)
        else:
            yield from _from_lines(config, path, broken, check)
    except OddFileError as error:
        if not data_files.is_empty(path):
            broken.cut_file(error)
            return
    if broken.lines - broken.left_out[BLANK_LINES] == before and data_files.is_empty(path):
        broken.empty_file(path)


def _begins_as_table(head: str) -> bool:
    """Whether the first line that is neither blank nor a comment is Excel's `sep=;` or has enough cells."""
    first = next((line for line in head.splitlines() if line.strip() and not line.startswith("#")), "")
    separators = ",;|\t" if _names_fields(first) else ",;|"  # without names tabs are as good as blanks
    cells = 1 + max(first.count(separator) for separator in separators)
    return first.casefold().startswith("sep=") or cells >= len(NEEDED)


def _from_table(path: Path, broken: BrokenLines, check: FlowCheck) -> Iterator[pd.DataFrame]:
    table = table_of(path)
    fields = [field_name(name) for name in table.names]
    by = "by its first line, which has to name its columns" if table.layout else "by its columns"
    _check_fields(path, fields, by)
    for batch in batches(table, table.names, broken):
        there = ~no_records(table, batch, broken)
        columns = zip(fields, table.names, strict=True)
        flows = pd.DataFrame({field: texts(batch.columns[name])[there] for field, name in columns})
        broken.seen(batch.rows)
        yield check.checked(flows, batch.lines[there].tolist())


def _from_zeek(path: Path, head: str, broken: BrokenLines, check: FlowCheck) -> Iterator[pd.DataFrame]:
    """The connections of Zeek's conn.log; its other logs, which stand in the same folder, are counted and left out."""
    table = table_of(path)
    log = re.search(r"^#path\s+(\w{1,40})", head, re.MULTILINE)
    if log and log[1] != "conn" and not {"conn_state", "orig_pkts"} & set(table.names):
        for batch in batches(table, table.names[:1], broken):
            broken.seen(batch.rows)
            broken.leave_out(f"records of Zeek's {log[1]}.log", batch.rows)
        return
    if missing := [name for name in ZEEK_NEEDS if name not in table.names]:
        raise DataError(f"{path}: a Zeek log without {', '.join(missing)}; expected conn.log")
    for batch in batches(table, table.names, broken):
        broken.seen(batch.rows)
        cells = pd.DataFrame({name: texts(batch.columns[name]) for name in table.names})
        rows, places = [], []
        for place, record in zip(batch.lines.tolist(), cells.to_dict("records"), strict=True):
            try:
                rows.append({**{field_name(name): cell for name, cell in record.items()}, **zeek_flow(record)})
                places.append(place)
            except ValueError as error:
                broken.add(path, place, str(error))
        if rows:
            yield check.checked(pd.DataFrame(rows), places)


def _from_json(config: Config, path: Path, broken: BrokenLines, check: FlowCheck) -> Iterator[pd.DataFrame]:
    """The flows of a JSON file: objects, and lines of text that are carried in JSON."""
    fields = _settings_fields(config)
    found = records(path, lambda value: is_flow_object(value) or is_event(value))
    while part := list(islice(found, CHUNK_LINES)):
        lines: list[tuple[str, str]] = []  # where they are, which is no key: several may be in one place
        flows: list[tuple[str, dict[str, str]]] = []
        for value in part:
            record = value.value
            if value.broken:
                broken.add(path, value.where, value.broken)
            elif isinstance(record, LeftOut):
                broken.leave_out(record)
            elif isinstance(record, str):
                lines.append((value.where, record))
            else:
                try:
                    flow = _by_fields(record)
                except (ValueError, OverflowError, RecursionError) as error:
                    broken.add(path, value.where, str(error))
                    continue
                if isinstance(flow, LeftOut):
                    broken.leave_out(flow)
                else:
                    flows.append((value.where, flow))
        if lines:
            _check_fields(path, fields, "by vpc_fields")
            places, carried = zip(*lines, strict=True)
            yield _of_lines(path, fields, carried, places, broken, check)
        if flows:
            places, rows = zip(*flows, strict=True)
            yield check.checked(pd.DataFrame(list(rows)).fillna(""), places)
        broken.seen(len(part))


def _by_fields(record: Any) -> dict[str, str] | LeftOut:
    """A flow record by the names of its fields.

    Raises:
        ValueError, OverflowError, RecursionError: it is none, or lacks a field.
    """
    if not isinstance(record, dict):
        raise ValueError(f"expected a flow record, found {str(record)[:60]!r}")
    sensed = flow_of(record)
    if isinstance(sensed, LeftOut):
        return sensed
    inner = flat(record) if sensed else record.items()
    flow = {field_name(key): _cell(cell) for key, cell in inner} | (sensed or {})
    if flow.get("log-status", "").upper() in NO_DATA:
        return LeftOut(NO_FLOWS)
    if missing := [name for name in NEEDED if name not in flow]:
        raise ValueError(f"no {', '.join(missing)}")
    return flow


def _cell(value: Any) -> str:
    return "" if value is None or isinstance(value, dict | list) else str(value)


def _from_lines(config: Config, path: Path, broken: BrokenLines, check: FlowCheck) -> Iterator[pd.DataFrame]:
    """The flows of a text. Each header line says what follows it: of files that were joined there may be several."""
    fields: tuple[str, ...] = ()
    before = 0
    with opened_text(path) as text:
        while lines := list(islice(text, CHUNK_LINES)):
            # Most records begin with the version.
            headers = [n for n, content in enumerate(lines) if not content[:1].isdigit() and _names_fields(content)]
            start = 0
            for at in [*headers, len(lines)]:
                names = _names_fields(lines[at]) if at < len(lines) else ()
                if names and fields and not set(NEEDED) <= set(names):
                    continue  # a record, if a broken one
                part = lines[start:at]
                if not fields and any(content.strip() and not content.startswith("#") for content in part):
                    fields = _settings_fields(config)
                    _check_fields(path, fields, "by vpc_fields")
                flows = _of_lines(path, fields, part, range(before + start + 1, before + at + 1), broken, check)
                if fields:  # before the first header there may be comments
                    yield flows
                broken.seen(len(part))
                if names and fields:
                    broken.leave_out(REPEATED_HEADER)
                    broken.seen(1)
                if names:
                    _check_fields(path, names, "by the header")
                    fields = names
                start = at + 1
            before += len(lines)


def _no_record(line: str, fields: tuple[str, ...]) -> str:
    """What a line is that is no record; empty for a record, and for a header of other fields."""
    if not line or line.startswith("#"):
        return COMMENTS if line else BLANK_LINES
    return REPEATED_HEADER if _names_fields(line) == fields != () else ""


def _names_fields(line: str) -> tuple[str, ...]:
    """The fields that a header line names; empty where it is none."""
    if line.startswith("#") or "srcaddr" not in line.casefold():
        return ()
    fields = tuple(field_name(name) for name in re.split(r"[,;|\s]+", line.strip().removeprefix("\ufeff")))
    return fields if "srcaddr" in fields else ()


def _settings_fields(config: Config) -> tuple[str, ...]:
    return tuple(field_name(name) for name in config.vpc_fields.replace(",", " ").split()) or DEFAULT_FIELDS


def _check_fields(path: Path, fields: Sequence[str], by: str) -> None:
    if missing := [name for name in NEEDED if name not in fields]:
        raise DataError(
            f"{path}: its lines have no {', '.join(missing)} ({by}); expected a format with {', '.join(NEEDED)}"
        )
    if len(set(fields)) < len(fields):
        twice = next(name for name in fields if list(fields).count(name) > 1)
        raise DataError(f"{path}: the field {twice!r} is there twice ({by}); expected each once")
    if "action" not in fields:
        tell_once(
            f"{path}: no field action, as of a Transit Gateway: reject_share is 0, and no flow counts as rejected"
        )


def _of_lines(
    path: Path,
    fields: tuple[str, ...],
    lines: Sequence[str],
    places: Places,
    broken: BrokenLines,
    check: FlowCheck,
) -> pd.DataFrame:
    """The flows on lines whose number of fields is right; pandas would fill a short one with blanks."""
    good: list[str] = []
    good_places: list[int | str] = []
    for place, content in zip(places, lines, strict=True):
        line = content.strip()
        if not line[:1].isdigit():
            line = line.removeprefix("\ufeff")
            if what := _no_record(line, fields):
                broken.leave_out(what)
                continue
        # A message may have line ends in it, where pandas would begin another row.
        if line.count(" ") + 1 != len(fields) or not line.isprintable():
            cells = line.split()
            if len(cells) == len(fields) + 1 and _TIME_BEFORE.fullmatch(cells[0]):
                cells = cells[1:]
            if len(cells) != len(fields):
                advice = "; vpc_fields names the fields of a format without a header line"
                broken.add(path, place, f"{len(cells)} fields, expected {len(fields)}{advice}")
                continue
            line = " ".join(cells)
        good.append(line)
        good_places.append(place)
    return check.checked(_table(good, fields), good_places)


def _table(lines: list[str], fields: tuple[str, ...]) -> pd.DataFrame:
    if not lines:
        return pd.DataFrame({name: pd.Series(dtype=str) for name in fields})
    return pd.read_csv(
        io.StringIO("\n".join(lines)),
        sep=" ",
        header=None,
        names=list(fields),
        dtype=dict.fromkeys(set(fields) - set(NUMBERS), str),
        na_filter=False,
        low_memory=False,  # else one column may come as texts in some parts and as numbers in others
        quoting=csv.QUOTE_NONE,
        skip_blank_lines=False,
    )
