"""What a principal did in a time window, as numbers: what the sources of calls have in common, whatever the service.

A schema says which of the features below a source has. No feature is made from a name that an account's owner or an
attacker's tool chooses: records are grouped by principal, and which one it is is no feature. Addresses, regions and
targets count as how many and whether new, never as which.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from shared.data_sources.cloudtrail_context import AccountHistory, rare_calls, rule_hits
from shared.data_sources.schema import FeatureSchema, bucket_columns, buckets
from shared.data_sources.source_types import Chunk
from shared.data_sources.windows import frequencies, most_frequent, window_families

# Feature: the column of records whose distinct values count.
_DISTINCT = {"apis": "api", "services": "service", "regions": "region", "addresses": "address", "targets": "target"}
# Feature: the column of records that is true of a share of them.
_SHARES = {
    "error_share": "error",
    "denied_share": "denied",
    "write_share": "write",
    "no_mfa_share": "no_mfa",
    "machine_share": "machine",
    "new_api_share": "new_api",
    "new_region_share": "new_region",
    "new_address_share": "new_address",
}
_NEW = ("api", "region", "address")


@dataclass
class Memory:
    """What each principal was seen to use before, and each account: grows with distinct values, not with records."""

    seen: set[tuple[str, str, str]] = field(default_factory=set)
    accounts: AccountHistory = field(default_factory=AccountHistory)


def chunk(
    records: pd.DataFrame,
    schema: FeatureSchema,
    memory: Memory,
    *,
    labelled: bool,
    sums: Iterable[str] = (),
    kinds: Sequence[str] = (),
) -> Chunk:
    """One row for each principal and window.

    Args:
        records: of closed windows, sorted by time; those columns that the features of `schema` are made from, and
            `window`, `key`, `principal`, `account`, `api`, `address`, `event_id`, `hits`, `family` and `group`.
        schema: of the rows.
        memory: of the windows before; these are added to it.
        labelled: False for records to score, of which a person will read more.
        sums: columns of records that the features `<column>_events` count.
        kinds: values of a column `kind` that the features `identity_<kind>` tell of a principal.
    """
    records = records.assign(**{f"new_{what}": _first_use(records, what, memory) for what in _NEW})
    grouped = records.groupby(["window", "key"], sort=True)
    rows = grouped.ngroup().to_numpy()  # the row of each record
    first, count = grouped.first(), grouped.size()
    windows = first.index.get_level_values("window").to_numpy(np.int64)
    columns: dict[str, NDArray[np.float64]] = {"events": np.log1p(count.to_numpy())}
    there = set(schema.names)
    for name, what in _DISTINCT.items():
        if name in there:
            columns[name] = np.log1p(grouped[what].nunique().to_numpy())
    for name, what in _SHARES.items():
        if name in there:
            columns[name] = grouped[what].mean().to_numpy(np.float64)
    for what in sums:
        columns[f"{what}_events"] = np.log1p(grouped[what].sum().to_numpy(np.float64))
    # The middle of the window: it is the same for whoever acts in it.
    angle = 2 * np.pi * ((windows + schema.window_minutes * 30) % 86_400) / 86_400
    columns["hour_sin"], columns["hour_cos"] = np.sin(angle), np.cos(angle)
    for kind in kinds:
        columns[f"identity_{kind}"] = (first["kind"] == kind).to_numpy(np.float64)
    counts = np.zeros((len(first), schema.hash_width))
    np.add.at(counts, (rows, buckets("api", records["api"], schema.hash_width)), 1.0)
    of_api = bucket_columns("api", schema.hash_width, "numeric")
    columns |= {column.name: part for column, part in zip(of_api, np.log1p(counts).T, strict=True)}
    meta = pd.DataFrame(
        {
            "start": windows,
            "end": windows + schema.window_minutes * 60,
            "principal": first["principal"].to_numpy(),
            "account": first["account"].to_numpy(),
            "events": count.to_numpy(),
            "first_event_id": first["event_id"].to_numpy(),
        }
    )
    if not labelled:
        calls = frequencies(rows, records["api"], len(first))
        meta["apis"] = [list(of_row) for of_row in calls]
        meta["call_counts"] = [list(of_row.values()) for of_row in calls]
        meta["regions"] = most_frequent(rows, records["region"], len(first))
        meta["addresses"] = most_frequent(rows, records["address"], len(first))
        meta["rules"] = rule_hits(records, rows, len(first))
        meta["rare_calls"] = rare_calls(records, rows, len(first), memory.accounts)
    features = np.column_stack([columns[name] for name in schema.names]).astype(np.float32)
    families = window_families(records["family"], rows, len(first)) if labelled else np.full(len(first), "")
    return Chunk(meta, features, families, first["group"].to_numpy(dtype=np.str_))


def _first_use(records: pd.DataFrame, what: str, memory: Memory) -> NDArray[np.bool_]:
    """Which records use an API, region or address that their principal was not seen to use before, (records,)."""
    first = ~records.duplicated(["key", what]).to_numpy()
    candidates = records.loc[first, ["key", what]].itertuples(index=False, name=None)
    for row, (key, value) in zip(np.flatnonzero(first), candidates, strict=True):
        used = (what, key, value)
        first[row] = used not in memory.seen
        memory.seen.add(used)
    return np.asarray(first)
