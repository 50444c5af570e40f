"""What the columns of a feature matrix are, as a value that can be stored, hashed and compared.

Two parties can share a model only if column j means the same to both. Everything that a raw feature depends on, apart
from the record itself, is in its `FeatureSchema`: it is fixed by the settings (and, for `csv`, the files' header), so
that no client needs to know which values occur at another.
"""

import hashlib
import json
from dataclasses import asdict, dataclass, fields
from typing import Any, Literal, get_args

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from shared.errors import DataError

# Raised when the meaning of a column changes although its name does not, so that old models are told apart.
SCHEMA_VERSION = 1
# In a numeric column: counts and amounts span many orders of magnitude, so they are compressed by sign(x) log(1 + |x|).
# After it no raw feature exceeds 28, which a sum in fixed point can rely on.
MAX_NUMBER = 1e12

Kind = Literal["numeric", "category", "cyclic"]
Features = NDArray[np.float32]


@dataclass(frozen=True)
class FeatureSchema:
    """The columns of a raw feature matrix.

    Attributes:
        source: the setting `data_source`.
        names: one per column, in order, without repetition.
        kinds: one per column: `numeric` is scaled by a `Scaler`; `category` (0 or 1) and `cyclic` (-1 to 1) are not.
        hash_width: buckets of each hashed group of columns, whose names end in `#0`, `#1`, ...
        window_minutes: length of a time window; 0 where a row is one record.
        excluded: fields of a record that no feature is made from, because the label comes from them.
        version: `SCHEMA_VERSION` of the code that made it.
    """

    source: str
    names: tuple[str, ...]
    kinds: tuple[Kind, ...]
    hash_width: int
    window_minutes: int
    excluded: tuple[str, ...]
    version: int = SCHEMA_VERSION

    def __post_init__(self) -> None:
        if len(self.names) != len(self.kinds) or len(set(self.names)) != len(self.names) or not self.names:
            raise DataError(
                f"feature schema: {len(self.names)} names ({len(set(self.names))} different) and {len(self.kinds)} "
                "kinds, expected one kind for each name, and no name twice"
            )
        if unknown := set(self.kinds) - set(get_args(Kind)):
            raise DataError(f"feature schema: kind {unknown.pop()!r}, expected one of {', '.join(get_args(Kind))}")

    def __len__(self) -> int:
        return len(self.names)

    @property
    def numeric(self) -> NDArray[np.bool_]:
        """Which columns a `Scaler` changes, (features,)."""
        return np.array([kind == "numeric" for kind in self.kinds])

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
            for name in ("names", "kinds", "excluded"):
                if not isinstance(values[name], list) or not all(isinstance(item, str) for item in values[name]):
                    raise TypeError(f"{name} is not a list of texts")
                values[name] = tuple(values[name])
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
        kinds = dict(zip(other.names, other.kinds, strict=True))
        if changed := [n for n, kind in zip(self.names, self.kinds, strict=True) if kinds.get(n, kind) != kind]:
            found.append(f"another kind: {_shown(changed)}")
        return "; ".join(found)


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


def bucket_names(column: str, width: int) -> tuple[str, ...]:
    """The names of one hashed group of columns, (width,)."""
    return tuple(f"{column}#{bucket}" for bucket in range(width))
