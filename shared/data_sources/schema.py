"""What the columns of a feature matrix are, as a value that can be stored, hashed and compared.

Two parties can share a model only if column j means the same to both. Everything that a raw feature depends on, apart
from the record itself, is in its `FeatureSchema`: it is fixed by the settings (and, for `csv`, the files' header), so
that no client needs to know which values occur at another.
"""

import hashlib
import json
from dataclasses import asdict, dataclass, fields
from functools import cached_property
from typing import Any, Literal, get_args

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from shared.errors import DataError

# Raised when the meaning of a column changes although its name does not, so that old models are told apart.
SCHEMA_VERSION = 4
# In a numeric column: counts and amounts span many orders of magnitude, so they are compressed by sign(x) log(1 + |x|).
# After it no raw feature exceeds 28, which a sum in fixed point can rely on.
MAX_NUMBER = 1e12

Kind = Literal["numeric", "category", "cyclic"]
Features = NDArray[np.float32]


@dataclass(frozen=True)
class Column:
    """One column of a feature matrix.

    Attributes:
        name: as no other column of the schema is called; of a category, its field, one more letter, and the value or
            the hashed bucket.
        field: of a record, that it is made from; the columns of one category have it in common.
        kind: `numeric` is scaled by a `Scaler`; `category` (0 or 1) and `cyclic` (-1 to 1) are not.
        log: whether it holds what `compressed` makes of a number, and not the number.
    """

    name: str
    field: str
    kind: Kind
    log: bool = False

    @property
    def value(self) -> str:
        """Of a category's column: which value it stands for."""
        return self.name[len(self.field) + 1 :]


def number_column(name: str, *, log: bool = True) -> Column:
    """A field that is a number, as its logarithm or as it is."""
    return Column(name, name, "numeric", log)


@dataclass(frozen=True)
class FeatureSchema:
    """The columns of a raw feature matrix.

    Attributes:
        source: the setting `data_source`.
        columns: in order.
        hash_width: buckets of each hashed category, whose columns' names end in `#0`, `#1`, ...
        window_minutes: length of a time window; 0 where a row is one record.
        excluded: fields of a record that no feature is made from, because the label comes from them.
        version: `SCHEMA_VERSION` of the code that made it.
    """

    source: str
    columns: tuple[Column, ...]
    hash_width: int = 0
    window_minutes: int = 0
    excluded: tuple[str, ...] = ()
    version: int = SCHEMA_VERSION

    def __post_init__(self) -> None:
        if not isinstance(self.columns, tuple) or not all(map(_is_column, self.columns)):
            raise DataError(
                f"feature schema: columns = {self.columns!s:.80}; expected a tuple of columns whose names are texts, "
                "such as (number_column('bytes'), number_column('packets'))"
            )
        if not self.columns or len(set(self.names)) != len(self.columns):
            raise DataError(
                f"feature schema: {len(self.columns)} columns of {len(set(self.names))} names; expected some, and no "
                "name twice"
            )
        if unknown := {column.kind for column in self.columns} - set(get_args(Kind)):
            raise DataError(f"feature schema: kind {unknown.pop()!r}, expected one of {', '.join(get_args(Kind))}")

    @cached_property
    def names(self) -> tuple[str, ...]:
        """Of the columns, in order."""
        return tuple(column.name for column in self.columns)

    def __len__(self) -> int:
        return len(self.columns)

    @property
    def numeric(self) -> NDArray[np.bool_]:
        """Which columns a `Scaler` changes, (features,)."""
        return np.array([column.kind == "numeric" for column in self.columns])

    def to_json(self) -> str:
        """Canonical: equal schemas give equal texts, byte for byte."""
        return json.dumps(asdict(self), sort_keys=True, separators=(",", ":"))

    @classmethod
    def from_json(cls, text: str) -> "FeatureSchema":
        """The schema that `to_json` wrote.

        Raises:
            DataError: the text is no such schema.
        """
        try:
            raw: dict[str, Any] = json.loads(text)
            values = {field.name: raw.pop(field.name) for field in fields(cls)}
            values["columns"] = tuple(_read_column(column) for column in values["columns"])
            if not isinstance(values["excluded"], list) or not all(
                isinstance(name, str) for name in values["excluded"]
            ):
                raise TypeError("excluded is not a list of texts")
            values["excluded"] = tuple(values["excluded"])
            for name, kind in (("source", str), ("hash_width", int), ("window_minutes", int), ("version", int)):
                if type(values[name]) is not kind:
                    raise TypeError(f"{name} = {values[name]!r}")
            if raw:
                raise ValueError(f"unknown entry {next(iter(raw))!r}")
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            raise DataError(f"feature schema: not what FeatureSchema.to_json writes: {error}") from None
        return cls(**values)

    def hash(self) -> str:
        """SHA-256 of the canonical JSON, 64 hexadecimal digits."""
        return hashlib.sha256(self.to_json().encode()).hexdigest()

    def difference(self, other: "FeatureSchema") -> str:
        """What `other` has that this one has not, and the reverse, in one line for a person; empty when equal."""
        found = []
        for name in ("source", "hash_width", "window_minutes", "excluded", "version"):
            mine, theirs = getattr(self, name), getattr(other, name)
            if mine != theirs:
                found.append(f"{name} is {_shown(mine)} here and {_shown(theirs)} there")
        if len(self) != len(other):
            found.append(f"{len(self)} features here and {len(other)} there")
        if missing := [name for name in self.names if name not in set(other.names)]:
            found.append(f"only here: {_shown(missing)}")
        if added := [name for name in other.names if name not in set(self.names)]:
            found.append(f"only there: {_shown(added)}")
        if not missing and not added and self.names != other.names:
            first = next(i for i, name in enumerate(self.names) if other.names[i] != name)
            found.append(f"another order from column {first} on: {self.names[first]} here, {other.names[first]} there")
        theirs_by_name = {column.name: column for column in other.columns}
        if changed := [c.name for c in self.columns if theirs_by_name.get(c.name, c) != c]:
            found.append(f"another kind: {_shown(changed)}")
        return "; ".join(found)


def _read_column(raw: Any) -> Column:
    """One column from parsed JSON; of another form it is a TypeError or a KeyError."""
    column = Column(**raw)
    if not _is_column(column):
        raise TypeError(f"column {raw!r:.80}")
    return column


def _is_column(value: object) -> bool:
    if not isinstance(value, Column):
        return False
    return type(value.name) is type(value.field) is type(value.kind) is str and type(value.log) is bool


def _shown(value: object, most: int = 5) -> str:
    if not isinstance(value, list | tuple):
        return str(value)
    more = f" and {len(value) - most} more" if len(value) > most else ""
    return (", ".join(str(item) for item in value[:most]) + more) or "nothing"


def compressed(numbers: NDArray[np.float64]) -> NDArray[np.float64]:
    """sign(x) log(1 + |x|), of the same shape: NaN becomes 0 and infinities `MAX_NUMBER`."""
    finite = np.clip(numbers, -MAX_NUMBER, MAX_NUMBER)
    result = np.copysign(np.log1p(np.abs(finite)), finite)
    result[np.isnan(result)] = 0.0
    return np.asarray(result)


def buckets(column: str, values: pd.Series, width: int) -> NDArray[np.int64]:
    """The bucket of each text, 0 to width - 1, (rows,): the same in every process, on every machine and for ever.

    "Feature hashing" (Weinberger et al., 2009) without its signs: a row has one value per column, so a collision
    within the column makes two values alike, whatever the sign. The column's name takes part, so that equal texts in
    two columns collide with different neighbours.
    """
    codes, unique = pd.factorize(values, use_na_sentinel=False)
    of_unique = [
        int.from_bytes(hashlib.blake2b(f"{column}={value}".encode(), digest_size=8).digest()) % width
        for value in unique
    ]
    return np.asarray(np.array(of_unique, dtype=np.int64)[codes])


def bucket_columns(field: str, width: int, kind: Kind = "category") -> list[Column]:
    """The columns of one hashed field, (width,)."""
    return [Column(f"{field}#{bucket}", field, kind, log=kind == "numeric") for bucket in range(width)]
