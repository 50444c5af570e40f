"""New records scored by the model of a run, a part at a time, and the alerts written as they come."""

import heapq
import json
import logging
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol, TextIO

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from client.alerts import Findings
from client.explain import Explainer
from shared.atomic import naming
from shared.bundle import ModelBundle
from shared.data_sources.broken_lines import BrokenLines
from shared.data_sources.schema import Features
from shared.data_utils import stream_features
from shared.errors import ConfigError, DataError
from shared.feedback import Suppressions
from shared.metrics import attack_scores, predict_probabilities
from shared.preprocessing import BINS, FeatureHistogram
from shared.rules.rule import ALERT_LEVEL, Rules

TOP = 20  # records of a ranking, where there is no threshold: what a person looks at in a morning
DRIVERS = 5  # of an alert: as many as a person reads
DRIFTED = 0.25  # of the stability index: "much changed", by the rule of thumb
# With fewer rows an unchanged feature's index is large by chance alone: about BINS * (1 / rows + 1 / learned rows).
FEWEST_ROWS_FOR_DRIFT = 200
_PART_ROWS = 2_000  # alerts that are made at once

_log = logging.getLogger("score")


@dataclass
class Summary:
    """What was scored.

    Attributes:
        records: rows that were scored: records, or windows of a principal or an address.
        alerts: those above the threshold, or with a rule's hit of the level that alerts.
        by_rules: of the alerts, those that a rule raised, whatever their score.
        by_both: of these, those above the threshold.
        ranked: others that were written as a ranking, where there is no threshold.
        suppressed: that would have been written, and that an analyst said no to for now.
        lines: that were read, with the broken ones among them.
        broken: lines that were skipped.
        seconds: from the first byte to the last alert.
        histogram: of the scaled rows.
    """

    histogram: FeatureHistogram
    records: int = 0
    alerts: int = 0
    by_rules: int = 0
    by_both: int = 0
    ranked: int = 0
    suppressed: int = 0
    lines: int = 0
    broken: int = 0
    seconds: float = 0.0
    drifted: list[tuple[str, float]] = field(default_factory=list)

    def drift_note(self, bundle: ModelBundle) -> str:
        """Whether the records still look like those the model learned from, in one line."""
        if self.records < FEWEST_ROWS_FOR_DRIFT:
            return f"drift: {self.records} records are too few to tell (from {FEWEST_ROWS_FOR_DRIFT} on)"
        index = bundle.preprocessing.histogram.stability_index(self.histogram)
        order = np.argsort(-index)
        self.drifted = [(bundle.schema.names[i], float(index[i])) for i in order if index[i] > DRIFTED]
        if not self.drifted:
            return f"drift: none, no feature's stability index (PSI) is above {DRIFTED}"
        shown = ", ".join(f"{name} {value:.2f}" for name, value in self.drifted[:10])
        more = f" and {len(self.drifted) - 10} more" if len(self.drifted) > 10 else ""
        return (
            f"DRIFT: {len(self.drifted)} of {len(index)} features no longer look like the training data (PSI above "
            f"{DRIFTED}): {shown}{more}; scores and the rate of false alerts may be off, so train anew"
        )


def score_files(
    bundle: ModelBundle,
    inputs: Sequence[Path],
    output: Path,
    threshold: float | None,
    top: int = TOP,
    rules: Rules | None = None,
    rule_level: str = ALERT_LEVEL,
    suppressions: Suppressions | None = None,
) -> Summary:
    """Score files and write an alert, one line of JSON, for each record above the threshold, or rank them.

    A record that meets a rule of `rule_level` or above is an alert as well, whatever its score, and in no ranking.

    Alerts are written, and flushed, part by part into `<output>.part`, where they can be followed; at the end the file
    gets its name. What stays behind with that ending is of a scoring that did not finish. A ranking is known, and
    written, when the last record was read.

    Args:
        bundle: the model.
        inputs: files or folders.
        output: of the alerts; replaced if it exists.
        threshold: 0 to 1; None: the records with the highest scores instead, the highest first.
        top: how many of them.
        rules: Sigma rules to evaluate on the records; hits of a lower level are in the alerts as well.
        rule_level: one of `shared.rules.rule.LEVELS`.
        suppressions: what analysts said no to for now; such lines are left out, and counted.

    Raises:
        DataError: a file is missing, malformed or does not fit the model.
        ConfigError: the output can't be written.
    """
    _check_output(inputs, output)
    part = output.with_name(f"{output.name}.part")
    start = time.perf_counter()
    try:
        part.unlink(missing_ok=True)  # with the mode that an earlier scoring made it with
        stream = part.open("x", encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"--output {output}: {error.strerror}; expected a file that can be written") from None
    scorer = Scorer(bundle, threshold, top, rules, rule_level, suppressions)
    with naming(part), stream:
        writer = _Lines(stream)
        for path in inputs:
            scorer.score(path, writer)
        scorer.write_ranking(writer)
    part.replace(output)
    scorer.summary.seconds = time.perf_counter() - start
    return scorer.summary


class Writer(Protocol):
    """Where alerts go as they are found."""

    def wanted(self, meta: pd.DataFrame) -> NDArray[np.bool_]:
        """Which rows may become alerts, (rows,)."""

    def add(self, finding: dict[str, Any], source: Mapping[str, Any], raw: Features) -> None:
        """One alert, the row of the table that it is about, and its raw features, (F,)."""

    def end_part(self) -> None:
        """All alerts of the rows that `wanted` was asked about last were added."""


class _Lines:
    """Alerts as lines of JSON, flushed part by part."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def wanted(self, meta: pd.DataFrame) -> NDArray[np.bool_]:
        return np.ones(len(meta), dtype=np.bool_)

    def add(self, finding: dict[str, Any], source: Mapping[str, Any], raw: Features) -> None:
        self._stream.write(json.dumps(finding, allow_nan=False) + "\n")

    def end_part(self) -> None:
        self._stream.flush()


class Scorer:
    """Scores files, one after the other, by one model.

    Args:
        bundle, threshold, top, rules, rule_level, suppressions: as in `score_files`.

    Attributes:
        summary: of all that was scored so far.
    """

    def __init__(
        self,
        bundle: ModelBundle,
        threshold: float | None,
        top: int,
        rules: Rules | None,
        rule_level: str,
        suppressions: Suppressions | None = None,
    ) -> None:
        self._bundle, self._suppressions = bundle, suppressions or Suppressions({})
        self._threshold, self._top, self._rules = threshold, top, rules
        self._ranked: list[_Ranked] = []  # a heap, the lowest score first
        self._model = bundle.build_detector()
        self._explainer = Explainer(self._model, bundle.preprocessing)
        self._findings = Findings(bundle, threshold, rule_level)
        self.summary = Summary(FeatureHistogram(np.zeros((len(bundle.schema), BINS), dtype=np.int64)))

    def score(self, path: Path, writer: Writer) -> None:
        """Score a file or a folder, and give its alerts to the writer.

        Raises:
            DataError: as in `score_files`.
        """
        broken = BrokenLines(path, self._bundle.config.max_broken_share)
        scaler = self._bundle.preprocessing.scaler
        for meta, raw in stream_features(self._bundle.config, path, self._bundle.schema, broken, self._rules):
            scaled = scaler.transform(raw)  # (rows, F)
            scores = attack_scores(predict_probabilities(self._model, scaled))  # (rows,)
            self.summary.histogram += FeatureHistogram.of(scaled)
            self.summary.records += len(scores)
            wanted = writer.wanted(meta)  # (rows,)
            by_rules = self._by_rules(meta) & wanted  # (rows,)
            by_model = np.zeros_like(by_rules) if self._threshold is None else (scores > self._threshold) & wanted
            alerts = np.flatnonzero(by_model | by_rules)
            if self._threshold is None:
                self._rank(np.where(by_rules, -np.inf, scores), meta, scaled, raw)
            for rows in _parts(alerts):
                drivers = self._explainer.drivers(scaled[rows], raw[rows], DRIVERS)
                detectors = self._explainer.detectors(scaled[rows])
                nearest = self._nearest(scaled[rows])
                sources = meta.iloc[rows].to_dict("records")
                created = time.time_ns() // 1_000_000
                for source, row, own, by, kind in zip(sources, rows, drivers, detectors, nearest, strict=True):
                    finding = self._findings.finding(
                        source, raw[row], float(scores[row]), own, created, detector=by, nearest=kind
                    )
                    self._add(finding, source, raw[row], writer)
            writer.end_part()
        self.summary.lines += broken.lines
        self.summary.broken += broken.broken

    def _nearest(self, scaled: Features) -> Sequence[tuple[str, float] | None]:
        return self._bundle.kinds.nearest(scaled) if self._bundle.kinds else [None] * len(scaled)

    def _add(self, finding: dict[str, Any], source: Mapping[str, Any], raw: Features, writer: Writer) -> None:
        """Hand on one alert or ranked record, unless a suppression covers it."""
        if self._suppressions.cover(finding["finding_info"]["uid"], finding["unmapped"]["pattern"]):
            self.summary.suppressed += 1
            return
        if finding["is_alert"]:
            by = finding["unmapped"]["raised_by"]
            self.summary.alerts += 1
            self.summary.by_rules += "rules" in by
            self.summary.by_both += len(by) > 1
        else:
            self.summary.ranked += 1
        writer.add(finding, source, raw)

    def _by_rules(self, meta: pd.DataFrame) -> NDArray[np.bool_]:
        """Which rows a rule makes alerts, (rows,)."""
        if self._rules is None:
            return np.zeros(len(meta), dtype=np.bool_)
        return np.array([bool(self._findings.by_rules(hits)) for hits in meta["rules"]], dtype=np.bool_)

    def _rank(self, scores: NDArray[np.float64], meta: pd.DataFrame, scaled: Features, raw: Features) -> None:
        """Keep the highest scores so far, and of each record what its line will need; none of those at -inf."""
        first = self.summary.records - len(scores)
        for row in np.argsort(-scores, kind="stable")[: min(self._top, int(np.isfinite(scores).sum()))]:
            one = slice(row, row + 1)
            # Of equal scores the earlier record counts as the higher, whatever the parts.
            record = (
                float(scores[row]),
                -first - int(row),
                meta.iloc[one].to_dict("records")[0],
                scaled[one],
                raw[one],
            )
            heapq.heappush(self._ranked, record)
            if len(self._ranked) > self._top:
                heapq.heappop(self._ranked)

    def write_ranking(self, writer: Writer) -> None:
        """The lines of the records with the highest scores, the highest first; none where there is a threshold."""
        of = self.summary.records - self.summary.by_rules
        for place, (score, _, source, scaled, raw) in enumerate(sorted(self._ranked, key=_order), start=1):
            (drivers,) = self._explainer.drivers(scaled, raw, DRIVERS)
            (by,) = self._explainer.detectors(scaled)
            told = f"number {place} of {of:,} by its score, in a ranking without a threshold"
            (kind,) = self._nearest(scaled)
            created = time.time_ns() // 1_000_000
            finding = self._findings.finding(source, raw[0], score, drivers, created, told, by, kind)
            self._add(finding, source, raw[0], writer)


_Ranked = tuple[float, int, dict[str, Any], Features, Features]  # score, minus the record's number, meta, scaled, raw


def _order(record: _Ranked) -> tuple[float, int]:
    return -record[0], -record[1]


def _parts(rows: np.ndarray) -> Iterator[np.ndarray]:
    return (rows[start : start + _PART_ROWS] for start in range(0, len(rows), _PART_ROWS))


def _check_output(inputs: Sequence[Path], output: Path) -> None:
    for path in inputs:
        if not path.exists():
            raise DataError(f"{path}: no such file or folder to score")
        if output.resolve() == path.resolve() or (path.is_dir() and path.resolve() in output.resolve().parents):
            raise ConfigError(f"--output {output}: is, or is in, what is scored: {path}; write the alerts elsewhere")
    if output.is_dir():
        raise ConfigError(f"--output {output}: is a folder; expected a file")
