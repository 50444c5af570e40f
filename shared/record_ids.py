"""The id of a record: the same whatever model scores it, so that an analyst's verdict on an alert is the label of the
same record when it is trained on.

It is a hash of what the record is by, and of nothing that a model, a rule or a later file changes:

| source | what it is by |
|---|---|
| windows of logs | window, principal or address, account, first event; not how many events were read so far |
| tables | name of the file, line, and the features as they are before scaling |
"""

import hashlib
import json
from collections.abc import Mapping
from typing import Any

import numpy as np

from shared.data_sources.schema import Features, FeatureSchema

_GROWS = frozenset(("events",))  # with records that come late; `first_event_id` tells two rows of a window apart


def record_id(schema: FeatureSchema, source: Mapping[str, Any], features: Features) -> str:
    """32 hex digits.

    Args:
        schema: of the raw features.
        source: where the record comes from: one row of `Chunk.meta`. Of windows, lists are for a person alone.
        features: its own, raw, (len(schema),).
    """
    if schema.window_minutes:
        named = {name: _plain(value) for name, value in source.items() if not isinstance(value, list)}
        named = {name: value for name, value in named.items() if name not in _GROWS}
    else:
        digest = hashlib.sha256(np.ascontiguousarray(features, dtype="<f4").tobytes()).hexdigest()
        named = {"file": _plain(source["file"]), "line": _plain(source["line"]), "features": digest}
    text = json.dumps([schema.source, named], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:32]


def _plain(value: Any) -> Any:
    if isinstance(value, np.generic):
        value = value.item()
    return "" if value is None or value != value else value
