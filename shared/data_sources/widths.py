"""Whether the model's input is as wide as the data, and what to say of the columns where it is not."""

from collections.abc import Sequence

from shared.config import Config
from shared.data_sources.schema import FeatureSchema
from shared.errors import DataError


def check_width(config: Config, schema: FeatureSchema) -> None:
    """The model's input must be as wide as the data.

    Raises:
        DataError: it is not; the message names the number to set.
    """
    if config.num_features != len(schema):
        raise DataError(
            f"num_features = {config.num_features}: this data has {len(schema)} features; "
            f"set num_features: {len(schema)}, on every side, if all have these: {described(schema)}"
        )


def described(schema: FeatureSchema) -> str:
    """The fields that features are made from, by kind, for a person."""
    kinds: dict[str, list[str]] = {"numbers": [], "names": []}
    for name in dict.fromkeys(column.field for column in schema.columns):
        columns = [column for column in schema.columns if column.field == name]
        kinds["names" if len(columns) > 1 or columns[0].kind == "category" else "numbers"].append(name)
    names = f", names ({schema.hash_width} columns each) {_some(kinds['names'])}" if kinds["names"] else ""
    return f"numbers {_some(kinds['numbers'])}{names}"


def differing_fields(mine: FeatureSchema, common: FeatureSchema) -> str:
    """Which fields are in one schema alone, or of another kind, for a person."""
    here = {column.field: column.kind for column in mine.columns}
    there = {column.field: column.kind for column in common.columns}
    told = [f"column {name!r} is here alone" for name in here if name not in there]
    told += [f"column {name!r} is missing here" for name in there if name not in here]
    words = {"numeric": "numbers", "category": "text", "cyclic": "numbers"}
    told += [
        f"column {name!r} holds {words[kind]} here and {words[there[name]]} there"
        for name, kind in here.items()
        if there.get(name, kind) != kind
    ]
    return _some(told, 10) if told else "no column differs, so num_features is wrong for all"


def _some(names: Sequence[str], most: int = 40) -> str:
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return (", ".join(names[:most]) + more) or "none"
