"""Figures for Prometheus (https://prometheus.io), in its text format, at `http://<metrics_address>/metrics`.

docs/monitoring.md lists them; docs/grafana/federation.json is a board for Grafana over them. Labels have few values,
all of closed lists: no tenant's name and no text of a tenant's is among them.
"""

from collections.abc import Sequence
from functools import partial
from typing import Any

from orchestrator.eyes.now import Now
from orchestrator.eyes.pages import Pages, Reader
from orchestrator.eyes.refusals import reason_name
from orchestrator.eyes.scalars import PHASES
from orchestrator.observers import Asked
from orchestrator.report.figures import time_parts
from orchestrator.round import Sum
from orchestrator.run_folder import RoundRecord
from orchestrator.seats import Seats
from shared.config import Config
from shared.errors import MissingDependencyError
from shared.exchange import Kind

_SUMS = (Kind.STATISTICS, Kind.TRAIN, Kind.EVALUATE)
_ROUND_SECONDS = (0.5, 1, 2, 5, 10, 20, 60, 120, 300, 600, 1800, 3600)  # upper ends of the histogram's buckets
_FIGURES = {  # of the global model after the last round: name -> field of the record, meaning
    "validation_loss": ("validation_loss", "cross-entropy on the orchestrator's validation rows, nats"),
    "test_loss": ("loss", "cross-entropy on the common test set, nats"),
    "test_accuracy": ("accuracy", "share of the test rows that are named right"),
    "test_roc_auc": ("roc_auc", "area under the ROC curve of the test set"),
    "test_pr_auc": ("pr_auc", "area under the precision-recall curve of the test set"),
    "test_fpr": ("fpr", "share of benign test rows that are called an attack"),
    "client_loss": ("client_loss", "cross-entropy over all rows that the clients hold out, nats"),
    "client_accuracy": ("client_accuracy", "share of these rows that are named right"),
    "upload_bytes_per_client": ("upload_bytes_per_client", "bytes of one update"),
}
_PRIVACY = {  # where the sums have noise
    "privacy_epsilon": ("epsilon", "epsilon that the run has spent so far"),
    "privacy_signal_to_noise": ("signal_to_noise", "length of the round's sum by that of its noise"),
}


class Metrics(Now):
    """Counts, and serves the counts.

    Args:
        config: the settings.
        run: the run's name.
        seats: the tenants that are here.

    Raises:
        MissingDependencyError: prometheus_client is not installed.
        NetworkError: something else listens at `metrics_address`.
    """

    def __init__(self, config: Config, run: str, seats: Seats) -> None:
        super().__init__(config)
        try:
            import prometheus_client as prometheus
        except ImportError:
            raise MissingDependencyError('prometheus_client is not installed: pip install -e ".[metrics]"') from None
        self._prometheus = prometheus
        # A second series for each counter, which says when it began.
        prometheus.disable_created_metrics()  # type: ignore[no-untyped-call]
        self._registry = registry = prometheus.CollectorRegistry()
        prometheus.ProcessCollector(registry=registry)  # memory and seconds of this process

        def gauge(name: str, meaning: str, labels: Sequence[str] = ()) -> Any:
            return prometheus.Gauge(f"federation_{name}", meaning, labels, registry=registry)

        def counter(name: str, meaning: str, labels: Sequence[str] = ()) -> Any:
            return prometheus.Counter(f"federation_{name}", meaning, labels, registry=registry)

        info = gauge("info", "the run that the server is at, always 1", ("run", "scheme", "masked", "model"))
        model = "own" if ":" in config.model else config.model
        info.labels(run, config.he_scheme, str(config.masked).lower(), model).set(1)
        gauge("clients_connected", "clients that are here").set_function(lambda: len(seats.tenants()))
        gauge("rounds_planned", "num_rounds of the settings").set(config.num_rounds)
        self._last_round = gauge("last_round", "the last finished round, 0 before the first")
        self._rounds = counter("rounds", "finished rounds since the server's start", ("outcome",))
        self._contributors = gauge("contributors", "clients whose updates are in the last round's model")
        self._failures = gauge("failures", "clients of the last round whose updates are not")
        asked = gauge("asked_clients", "clients that are asked for something now, by the sum it is for", ("sum",))
        answered = gauge("answered_clients", "those that have answered, or are lost", ("sum",))
        self._vectors = counter("vectors", "vectors of clients in decrypted sums", ("sum",))
        self._bytes = counter("vector_bytes", "bytes of these vectors, as they travelled", ("sum",))
        self._refusals = counter("refusals", "clients left out of a sum, by why", ("sum", "reason"))
        self._phases = counter("phase_seconds", "where the rounds' seconds went", ("phase",))
        self._seconds = prometheus.Histogram(
            "federation_round_seconds", "seconds of whole rounds", buckets=_ROUND_SECONDS, registry=registry
        )
        figures = {**_FIGURES, **(_PRIVACY if config.privacy == "records" else {})}
        self._figures = {field: gauge(name, meaning) for name, (field, meaning) in figures.items()}
        for series in self._figures.values():
            series.set(float("nan"))  # not known yet, which is no 0
        if config.privacy == "records":
            gauge("privacy_epsilon_target", "dp_target_epsilon of the settings").set(config.dp_target_epsilon)
            gauge("privacy_delta", "dp_delta of the settings").set(config.dp_delta)
        for kind in _SUMS:
            asked.labels(kind.value).set_function(partial(self._under_way, kind, of="tenants"))
            answered.labels(kind.value).set_function(partial(self._under_way, kind, of="answered"))
            for series in (self._vectors, self._bytes):
                series.labels(kind.value)
        for outcome in ("sum", "skipped"):
            self._rounds.labels(outcome)
        self._told: set[str] = set()  # tenants that are left out of the present sum, each counted once
        self._pages = Pages(
            config.metrics_address, "metrics_address", {"/metrics": self._show}, any_name=config.allow_open_monitoring
        )

    def began(self, records: Sequence[RoundRecord]) -> None:
        super().began(records)
        if records:  # of a run that goes on: its present state, and no counts of what another process did
            self._show_state(records[-1])

    def asked(self, asked: Asked) -> None:
        if asked.kind in (Kind.ADVERTISE, asked.sum):
            self._told = set()
        super().asked(asked)

    def left_out(self, sum_of: Kind, tenant: str, reason: str) -> None:
        if tenant not in self._told:
            self._told.add(tenant)
            self._refusals.labels(sum_of.value, reason_name(reason)).inc()

    def added(self, sum_of: Kind, result: Sum) -> None:
        self._vectors.labels(sum_of.value).inc(len(result.contributors))
        self._bytes.labels(sum_of.value).inc(len(result.contributors) * result.payload_bytes)

    def committed(self, record: RoundRecord) -> None:
        self._rounds.labels("sum" if record.skipped is None else "skipped").inc()
        for phase, part in zip(PHASES, time_parts(record), strict=True):
            self._phases.labels(phase).inc(part)
        self._seconds.observe(record.round_seconds or 0.0)
        self._show_state(record)
        super().committed(record)

    def close(self) -> None:
        self._pages.close()

    def _under_way(self, kind: Kind, *, of: str) -> int:
        """Clients that are asked for a part of such a sum at this moment, or how many of them have answered."""
        moment = self.moment()
        if moment.asked is None or moment.asked.sum is not kind or moment.answered >= moment.asked.tenants:
            return 0
        return moment.answered if of == "answered" else moment.asked.tenants

    def _show_state(self, record: RoundRecord) -> None:
        self._last_round.set(record.round)
        self._contributors.set(record.contributors)
        self._failures.set(record.failures)
        for field, series in self._figures.items():
            value = getattr(record, field)
            series.set(float("nan") if value is None else value)

    def _show(self, reader: Reader) -> None:
        reader.answer(self._prometheus.generate_latest(self._registry), self._prometheus.CONTENT_TYPE_LATEST)
