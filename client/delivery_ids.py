"""A stable id for what an alert is about: the same record, scored again by the same model, has the same one.

It is SHA-256 over the model and what makes the record this one and no other:

| rows | what |
|---|---|
| records | the file or object that it was found in first, the line, all that is no feature, and the raw features |
| windows | whose they are, and when they begin and end |

So a file that is read again as a whole, because a line was added or one was exchanged, sends what is new in it and
nothing else. A window that grows, as late records arrive, keeps its id: an alert of it is sent once.
"""

import hashlib
import json
from collections.abc import Mapping
from typing import Any

import numpy as np

from shared.data_sources.schema import Features

# When a window is, and whose, in the words of all sources that have windows.
WINDOW_FIELDS = ("start", "end", "account", "principal", "source", "project", "subscription", "tenant")
_FILE = "file"  # its name may change; `origin` stands for it


def delivery_id(model: Mapping[str, Any], origin: str, source: Mapping[str, Any], raw: Features) -> str:
    """The id of an alert on a record, 32 hex digits.

    Args:
        model: that scored: run, round and checksums.
        origin: the file or object, by its first name.
        source: of the alert: one row of what `stream_features` yields first.
        raw: the row's raw features, (F,).
    """
    plain = {name: str(value) for name, value in source.items() if name != _FILE}
    return _digest([model, origin, plain, np.ascontiguousarray(raw, dtype="<f4").tobytes().hex()])


def window_id(model: Mapping[str, Any], source: Mapping[str, Any]) -> str:
    """The id of an alert on a window; arguments as in `delivery_id`."""
    return _digest([model, {name: str(source[name]) for name in WINDOW_FIELDS if name in source}])


def _digest(what: list[Any]) -> str:
    return hashlib.sha256(json.dumps(what, sort_keys=True).encode()).hexdigest()[:32]
