"""What a reader of an alert wants to know beside a window's features: which rules its records meet, and which of its
calls are rare in the account. Neither is a feature: rules differ from tenant to tenant, and an account without a past
has nothing but rare calls.
"""

from collections import Counter
from dataclasses import dataclass, field, replace
from itertools import groupby
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from shared.rules.rule import Rule, RuleHit

RARE_CALLS = 5  # of a window: as many as a person reads


@dataclass
class AccountHistory:
    """The calls that each account was seen to make so far: grows with distinct calls and callers, not with records."""

    calls: Counter[tuple[str, str]] = field(default_factory=Counter)  # (account, API)
    all_calls: Counter[str] = field(default_factory=Counter)  # account
    callers: dict[tuple[str, str], set[str]] = field(default_factory=dict)


def rule_hits(records: pd.DataFrame, rows: NDArray[np.int64], num_rows: int) -> list[list[RuleHit]]:
    """The rules that the records of each row meet, the highest level first, (num_rows,).

    Args:
        records: `hits`, the rules that each record meets, `event_id` and `api`, sorted by time.
        rows: the row of each record, (records,).
        num_rows: how many rows there are.
    """
    found: list[dict[Rule, RuleHit]] = [{} for _ in range(num_rows)]
    for row, hits, event_id, api in zip(rows, records["hits"], records["event_id"], records["api"], strict=True):
        for rule in hits:
            known = found[row].get(rule, RuleHit(rule, 0, event_id, api))
            found[row][rule] = replace(known, records=known.records + 1)
    return [sorted(hits.values(), key=lambda hit: -hit.rule.rank) for hits in found]


def rare_calls(
    records: pd.DataFrame, rows: NDArray[np.int64], num_rows: int, history: AccountHistory
) -> list[list[dict[str, Any]]]:
    """The `RARE_CALLS` calls of each row that its account made least often before the row's window, (num_rows,).

    Each is `api`; `earlier`, how often the account made it before; `of`, how many calls it made before in all; and
    `principals`, how many made this one. The past is what `history` was told: the windows before.

    Args:
        records: of closed windows, sorted by time; `window`, `account`, `api` and `key`.
        rows: the row of each record, (records,); rows are sorted by window.
        num_rows: how many rows there are.
        history: of the accounts before these records; they are added to it.
    """
    found: list[list[dict[str, Any]]] = [[] for _ in range(num_rows)]
    told = records[["window", "account", "api", "key"]].assign(row=rows)
    # One pass over distinct calls in the order of time; pandas by window would cost more than all else of a window.
    counts = told.groupby(["window", "row", "account", "api", "key"], sort=False).size()
    for _, window in groupby(counts.items(), key=lambda item: item[0][0]):
        calls = list(window)
        for (_, row, account, api, _), _ in calls:
            found[row].append(
                {
                    "api": api,
                    "earlier": history.calls[account, api],
                    "of": history.all_calls[account],
                    "principals": len(history.callers.get((account, api), ())),
                }
            )
        for (_, _, account, api, key), count in calls:
            history.calls[account, api] += int(count)
            history.all_calls[account] += int(count)
            history.callers.setdefault((account, api), set()).add(key)
    return [sorted(calls, key=lambda call: call["earlier"])[:RARE_CALLS] for calls in found]
