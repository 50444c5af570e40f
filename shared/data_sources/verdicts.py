"""Analysts' verdicts put over the labels of rows, whatever those come from."""

import logging
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from shared.config import Config
from shared.data_sources.labels import ATTACK, BENIGN
from shared.data_sources.schema import Features, FeatureSchema
from shared.feedback import PATTERN, Verdict
from shared.record_ids import record_id

_log = logging.getLogger("labels")


class RowVerdicts:
    """Puts verdicts over the labels of rows, and counts what came of them.

    Args:
        schema: of the rows' features.
        verdicts: by id, as `load_feedback` reads them; those of patterns are no labels.
    """

    def __init__(self, schema: FeatureSchema, verdicts: Mapping[str, Verdict]) -> None:
        self._schema = schema
        self._verdicts = {uid: verdict for uid, verdict in verdicts.items() if not uid.startswith(PATTERN)}
        self._seen: set[str] = set()
        self.rows = self.attacks = self.taken_back = self.added = 0

    def over(self, families: NDArray[np.str_], meta: pd.DataFrame, features: Features) -> NDArray[np.str_]:
        """The families with verdicts over them, (rows,); what a verdict makes an attack is of family `attack`.

        Args:
            families: by the other labels, (rows,).
            meta: where each row comes from, (rows, ...).
            features: raw, (rows, features).
        """
        result = families.astype(object)
        for row, source in enumerate(meta.to_dict("records") if self._verdicts else ()):
            uid = record_id(self._schema, source, features[row])
            verdict = self._verdicts.get(uid)
            if verdict is None:
                continue
            self._seen.add(uid)
            before = result[row] != BENIGN
            self.rows += 1
            self.attacks += verdict.attack
            self.taken_back += before and not verdict.attack
            self.added += verdict.attack and not before
            if verdict.attack != before:
                result[row] = ATTACK if verdict.attack else BENIGN
        return result.astype(np.str_)

    def tell(self, path: Path, others: str) -> None:
        """One line on what came of them, and one on those of no row.

        Args:
            path: of the rows.
            others: what the other labels come from, in words.
        """
        _log.info(
            "%s: verdicts on %d rows, %d of them attacks; on %d they disagree with %s, and stand: the analyst says no "
            "to %d attacks, and yes to %d rows that were benign",
            path, self.rows, self.attacks, self.taken_back + self.added, others, self.taken_back, self.added,
        )  # fmt: skip
        if missing := len(self._verdicts) - len(self._seen):
            _log.warning("%s: %d of %d verdicts are about no row here", path, missing, len(self._verdicts))


def other_labels(config: Config) -> str:
    """What labels come from beside verdicts, in words."""
    named = {"rules": "the rules", "findings": "the findings"}
    if config.labels in named:
        return named[config.labels] + (" and rules" if config.labels == "findings" and config.rules_path else "")
    if config.data_source == "csv":
        return f"column {config.csv_label_column!r}"
    return "label_path" if config.label_path else f"label_patterns in {config.label_field}"
