"""Which log records are attacks: by a file of labels, or by patterns of one field; and which are in neither class.

Whatever the label comes from must not come back as a feature, or the detector learns the label instead of the attack.
`label_origin` names it, and each source leaves out the features that are made from it.

A tool that plays attacks leaves more records than those of the attacks: what it sets up before, what the cloud does in
consequence, and what it clears away. As attacks they would teach the tool; as benign they would teach that half of the
tool is harmless. `label_ignored` leaves them out of both.
"""

import fnmatch
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from shared.config import Config
from shared.config_checks import conditions_of
from shared.data_sources.files import opened_text
from shared.errors import DataError

BENIGN = "benign"
ATTACK = "attack"
EVENT_ID, TIME, ADDRESS = "event_id", "time", "address"
_COLUMNS = ("event_id", "start", "end", "address", "label")
_FORMAT = "expected a column label, and event_id, or start and end, or address, or address, start and end"


@dataclass(frozen=True)
class LabelRules:
    """How to label records. Exactly one of the two is set.

    Attributes:
        patterns: what the field must match, any of them, in any case; `*` and `?` as in file names.
        rows: the rows of the file of labels, with the columns that it has.
    """

    patterns: tuple[str, ...] = ()
    rows: pd.DataFrame | None = None

    def families(self, records: pd.DataFrame) -> NDArray[np.str_]:
        """The family of each record, "benign" where no rule says otherwise, (rows,).

        Args:
            records: `label_value` for patterns; `event_id`, `time` (seconds since 1970) and `address` for a file.
        """
        families = np.full(len(records), BENIGN, dtype=object)
        if self.rows is None:
            families[self._matches(records["label_value"])] = ATTACK
            return families.astype(np.str_)
        if EVENT_ID in self.rows:
            named = self.rows[self.rows[EVENT_ID] != ""]
            by_id = dict(zip(named[EVENT_ID], named["label"], strict=True))
            families = records[EVENT_ID].map(by_id).fillna(BENIGN).to_numpy(dtype=object)
        for row in self.rows.to_dict("records"):
            if row.get(EVENT_ID):
                continue
            hit = families == BENIGN
            if "start" in row:
                hit &= ((records["time"] >= row["start"]) & (records["time"] < row["end"])).to_numpy()
            if row.get(ADDRESS):
                hit &= (records[ADDRESS] == row[ADDRESS]).to_numpy()
            families[hit] = row["label"]
        return families.astype(np.str_)

    def _matches(self, values: pd.Series) -> NDArray[np.bool_]:
        codes, unique = pd.factorize(values, use_na_sentinel=False)
        anything = re.compile("|".join(fnmatch.translate(pattern.casefold()) for pattern in self.patterns))
        matches = np.array([anything.match(str(value).casefold()) is not None for value in unique], dtype=np.bool_)
        return np.asarray(matches[codes])


@dataclass(frozen=True)
class IgnoredRecords:
    """Records that are in neither class, and so are neither trained on nor judged by.

    Scoring reads them all the same: whoever could take a name that is ignored would not be seen.

    Attributes:
        rules: of each, what all of its fields must match: the keys that lead to a field, and what its value must match.
    """

    rules: tuple[tuple[tuple[tuple[str, ...], re.Pattern[str]], ...], ...]

    @classmethod
    def of(cls, config: Config) -> "IgnoredRecords":
        """The rules of `label_ignored`, whose form the settings have checked."""
        return cls(
            tuple(
                tuple(
                    (tuple(field.split(".")), re.compile(fnmatch.translate(pattern.casefold())))
                    for field, pattern in conditions_of(rule)
                )
                for rule in config.label_ignored
            )
        )

    def __contains__(self, record: Mapping[str, Any]) -> bool:
        """Whether any rule's conditions are all met by this record, as it was read."""
        return any(all(what.match(looked_up(record, keys).casefold()) for keys, what in rule) for rule in self.rules)


def looked_up(record: Any, keys: tuple[str, ...]) -> str:
    """The value that a path of keys leads to, as text; empty where the record has none."""
    for key in keys:
        record = record.get(key) if isinstance(record, dict) else None
    if record is None:
        return ""
    return record if isinstance(record, str) else json.dumps(record)


def load_label_rules(config: Config, label_path: Path | None) -> LabelRules:
    """The rules of the settings.

    Raises:
        DataError: the file of labels is missing or malformed.
    """
    if label_path is None:
        return LabelRules(patterns=config.label_patterns)
    rows = _read(label_path)
    if "start" in rows:
        for name in ("start", "end"):
            rows[name] = [_seconds(label_path, line, name, text) for line, text in enumerate(rows[name], start=2)]
    benign = {BENIGN, "normal", "0", ""}
    rows["label"] = [BENIGN if label.casefold() in benign else label for label in rows["label"]]
    return LabelRules(rows=rows)


def origin_in_words(config: Config, label_path: Path | None) -> str:
    """What makes a record an attack, for a person."""
    if label_path:
        return f"label_path {label_path}"
    return f"label_patterns {list(config.label_patterns)} in {config.label_field}"


def label_origin(config: Config, label_path: Path | None) -> tuple[str, ...]:
    """What the label comes from: the name of the field, or of `event_id`, `time`, `address` what the file has.

    Nothing of rules: they judge by what an attacker does, which new records have as well, and what they leave to learn
    is what goes along with it. Without the fields that they read there would be no features.

    Raises:
        DataError: the file of labels is missing or malformed.
    """
    if config.labels:
        return ()
    if label_path is None:
        return (config.label_field,)
    columns = _read(label_path).columns
    return tuple(
        role for role, column in ((EVENT_ID, "event_id"), (TIME, "start"), (ADDRESS, "address")) if column in columns
    )


def _read(path: Path) -> pd.DataFrame:
    try:
        with opened_text(path) as text:
            table = pd.read_csv(text, dtype=str, keep_default_na=False, skipinitialspace=True)
    except (pd.errors.ParserError, pd.errors.EmptyDataError) as error:
        raise DataError(f"label_path {path}: not a CSV file: {error}; {_FORMAT}") from None
    table.columns = pd.Index([str(name).strip().casefold() for name in table.columns])
    known = [name for name in _COLUMNS if name in table]
    if "label" not in known or len(known) < 2 or ("start" in known) != ("end" in known):
        there = ", ".join(known) or "none"  # of the others each may be a cell of a file without a header line
        raise DataError(f"label_path {path}: of {len(table.columns)} there are known the columns {there}; {_FORMAT}")
    return table[known].apply(lambda column: column.str.strip())


def _seconds(path: Path, line: int, name: str, text: str) -> float:
    """Seconds since 1970; an empty cell leaves the range open at that side."""
    if not text:
        return -np.inf if name == "start" else np.inf
    try:
        return float(text) if re.fullmatch(r"\d+(\.\d+)?", text) else pd.Timestamp(text).timestamp()
    except ValueError:
        raise DataError(
            f"label_path {path}, line {line}: {name} = {text!r}, expected a time such as 2023-07-10T11:42:00Z"
        ) from None
