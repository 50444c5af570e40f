"""Who looks on at a run: what Prometheus, TensorBoard and MLflow are told, and that nobody of them can hold it up."""

import json
import logging
import re
import socket
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from orchestrator.eyes import make_observers
from orchestrator.eyes.refusals import NAMES, OTHER, reason_name
from orchestrator.eyes.scalars import scalars
from orchestrator.observers import Observer
from orchestrator.run import OpenRun
from orchestrator.run_folder import RoundRecord, RunFolder
from orchestrator.seats import Seats
from shared.config import Config, parse_config
from shared.errors import ConfigError, MissingDependencyError, NetworkError
from shared.exchange import Kind
from tests.federations import make_tenants, open_in_memory
from tests.processes import ROOT, free_port
from tests.run_folders import example_rounds
from tests.watching import ATTACK, get, open_hostile, watched_settings

BOARD = ROOT / "docs/grafana/federation.json"
PAGE = ROOT / "docs/monitoring.md"
Samples = dict[tuple[str, tuple[tuple[str, str], ...]], float]


def needs(module: str, extra: str) -> None:
    pytest.importorskip(module, reason=f'{module} is not installed: pip install -e ".[{extra}]"')


def samples(text: str) -> Samples:
    """By name and labels, as Prometheus' own reader finds them."""
    from prometheus_client.parser import text_string_to_metric_families

    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


@pytest.fixture(scope="module")
def watched(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[OpenRun[Any], Config]]:
    """A finished run of two rounds with a hostile third tenant, whose server is still there."""
    needs("prometheus_client", "metrics")
    config = watched_settings(tmp_path_factory.mktemp("watched"), live_address="")
    run = open_hostile(config)
    run.coordinator.run()
    yield run, config
    run.close()


def test_the_metrics_are_the_records(watched: tuple[OpenRun[Any], Config]) -> None:
    run, config = watched
    status, headers, text = get(config.metrics_address, "/metrics")
    assert status == 200
    assert headers["Content-Type"].startswith("text/plain; version=")
    found, records = samples(text), run.coordinator.records

    def value(name: str, **labels: str) -> float:
        return found[f"federation_{name}", tuple(sorted(labels.items()))]

    assert (value("last_round"), value("rounds_planned"), value("clients_connected")) == (2, 2, 3)
    assert (value("rounds_total", outcome="sum"), value("rounds_total", outcome="skipped")) == (2, 0)
    assert (value("contributors"), value("failures")) == (2, 1)
    assert value("vectors_total", sum="train") == 4
    sent = sum((r.upload_bytes_per_client or 0) * r.contributors for r in records)
    assert value("vector_bytes_total", sum="train") == sent
    assert value("refusals_total", sum="train", reason="other") == 2
    assert value("validation_loss") == records[-1].validation_loss
    assert value("test_roc_auc") == records[-1].roc_auc
    assert value("client_loss") == records[-1].client_loss
    assert value("round_seconds_count") == 2
    phases = sum(v for (name, _), v in found.items() if name == "federation_phase_seconds_total")
    assert phases == pytest.approx(value("round_seconds_sum"))
    assert value("info", run=run.folder.name, scheme="paillier", masked="false", model="mlp") == 1
    assert found["process_resident_memory_bytes", ()] > 0


def test_no_text_of_a_tenant_is_among_the_metrics(watched: tuple[OpenRun[Any], Config]) -> None:
    run, config = watched
    assert "taken over" in run.coordinator.records[0].failed["2"], "or this shows nothing"
    assert "taken over" not in get(config.metrics_address, "/metrics")[2]


def test_a_reader_finds_the_metrics_and_nothing_else(watched: tuple[OpenRun[Any], Config]) -> None:
    address = watched[1].metrics_address
    assert get(address, "/")[0] == 404
    assert get(address, "/../../etc/passwd")[0] == 404
    assert get(address, "/metrics", Host="attacker.example")[0] == 421, "a name that somebody made lead here"
    for name in ("localhost:1", "127.0.0.1", "[::1]:80"):
        assert get(address, "/metrics", Host=name)[0] == 200


@pytest.mark.parametrize(
    ("reason", "name"),
    [
        ("update: signature: forged", "update: signature"),
        ("at share: lost: disconnected, or no answer within stage_timeout", "lost"),
        ("lost: disconnected", "lost"),
        ("at advertise: masking: weak key: a tenant's key is weak", "masking: weak key"),
        ("policy: least_cohort: its policy asks for more tenants in a sum", "policy: least_cohort"),
        ("it is not enrolled, or no longer", "not enrolled"),
        ("Refused: it refuses; its own log says why", "Refused"),
        (ATTACK, OTHER),
        ("SystemExit: made up", OTHER),
        ("x" * 100_000, OTHER),
        ("", OTHER),
        (": ", OTHER),
        ("at : at : lost", OTHER),
    ],
)
def test_a_reason_is_one_of_a_closed_list(reason: str, name: str) -> None:
    assert reason_name(reason) == name
    assert name in NAMES


def board_queries() -> list[str]:
    board = json.loads(BOARD.read_text(encoding="utf-8"))
    return [target["expr"] for panel in board["panels"] for target in panel.get("targets", [])]


def test_every_metric_of_the_board_and_of_the_page_is_there(tmp_path: Path) -> None:
    needs("prometheus_client", "metrics")
    from orchestrator.eyes.metrics import Metrics

    config = watched_settings(tmp_path, live_address="")
    noisy = Config.model_construct(**(dict(config) | {"privacy": "records"}))
    metrics = Metrics(noisy, "20261127-101112-0a1b2c", Seats("run", "session"))
    try:
        metrics.left_out(Kind.TRAIN, "0", "lost: disconnected")
        metrics.committed(example_rounds(1)[0])
        there = {name for name, _ in samples(get(config.metrics_address, "/metrics")[2])}
    finally:
        metrics.close()
    queries = board_queries()
    assert len(queries) > 10
    for query in queries:
        names = re.findall(r"\b(?:federation|process)_\w+", query)
        assert names, query
        assert set(names) <= there, query
    families = {re.sub(r"_(total|bucket|count|sum)$", "", name) for name in there if name.startswith("federation_")}
    rows = re.findall(r"^\| `(federation_\w+)", PAGE.read_text(encoding="utf-8"), re.M)
    assert {re.sub(r"_total$", "", name) for name in rows} == families, (
        "docs/monitoring.md lists them all, and no other"
    )


def test_the_board_has_what_grafana_asks_of_one() -> None:
    board = json.loads(BOARD.read_text(encoding="utf-8"))
    assert {"title", "panels", "schemaVersion", "uid", "templating"} <= board.keys()
    assert len({panel["id"] for panel in board["panels"]}) == len(board["panels"])
    for panel in board["panels"]:
        assert panel["gridPos"]["x"] + panel["gridPos"]["w"] <= 24
        assert panel["title"]
    assert [variable["name"] for variable in board["templating"]["list"]] == ["datasource"]


def test_the_event_files_are_what_tensorboard_reads(tmp_path: Path) -> None:
    needs("tensorboard", "tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    from orchestrator.eyes.tensorboard import EventFiles

    config = Config(tensorboard_dir=str(tmp_path / "events"))
    records = example_rounds(4)
    # Killed after three rounds, the last of which had no checkpoint, so that it is run again.
    for before, rounds in ((0, records[:3]), (2, records[2:])):
        files = EventFiles(config, "a-run")
        files.began(records[:before])
        for record in rounds:
            files.committed(record)
        files.close()
    read = EventAccumulator(str(tmp_path / "events/a-run"))
    read.Reload()
    assert set(read.Tags()["scalars"]) == set(scalars(records[0]))
    for name in ("test/loss", "validation/loss", "seconds/decrypt", "recall_at_fpr/0.01"):
        events = read.Scalars(name)
        assert [event.step for event in events] == [1, 2, 3, 4]
        expected = [scalars(record)[name] for record in records]
        np.testing.assert_allclose([event.value for event in events], expected, rtol=1e-6)


@pytest.mark.long
@pytest.mark.filterwarnings("ignore:The ``noload``:DeprecationWarning")  # of MLflow's use of SQLAlchemy
def test_mlflows_own_client_finds_the_run(tmp_path: Path) -> None:
    needs("mlflow", "mlflow")
    from orchestrator.eyes.mlflow import EXPERIMENT, MLflowRun

    uri = f"sqlite:///{tmp_path / 'mlflow.db'}"
    config = Config(
        mlflow_tracking_uri=uri,
        data_source="nsl_kdd",
        num_features=122,
        data_path="/secret/place",
        he_key_file="/secret/key",
    )
    records = example_rounds(3)
    for before, rounds, ends in ((0, records[:2], False), (2, records[2:], True)):
        told = MLflowRun(config, "a-run")
        told.began(records[:before])
        for record in rounds:
            told.committed(record)
        if ends:
            told.ended()
        told.close()
        assert not told._thread.is_alive()
        from mlflow.tracking import MlflowClient

        client = MlflowClient(tracking_uri=uri)
        experiment = client.get_experiment_by_name(EXPERIMENT)
        assert experiment is not None
        (run,) = client.search_runs([experiment.experiment_id])
        assert run.info.run_name == "a-run"
        assert run.info.status == ("FINISHED" if ends else "KILLED")
    losses = client.get_metric_history(run.info.run_id, "test/loss")
    assert [(m.step, m.value) for m in losses] == [(r.round, r.loss) for r in records]
    assert run.data.metrics["validation/loss"] == records[-1].validation_loss
    assert run.data.params["num_clients"] == "3"
    assert run.data.params["he_scheme"] == "paillier"
    assert "secret" not in str(run.data.params)


def test_a_tracking_server_that_is_away_ends_in_a_warning(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    needs("mlflow", "mlflow")
    from orchestrator.eyes.mlflow import MLflowRun

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
        told = MLflowRun(Config(mlflow_tracking_uri=f"http://127.0.0.1:{free_port()}"), "a-run")
        told.began([])
        told.committed(example_rounds(1)[0])
        told.close()
        told._thread.join(60)
    assert any("MLflow is told nothing more, the run goes on" in record.getMessage() for record in caplog.records)


def test_a_place_that_mlflow_does_not_take_is_told_at_the_start() -> None:
    needs("mlflow", "mlflow")
    from orchestrator.eyes.mlflow import MLflowRun

    with pytest.raises(ConfigError, match=r"mlflow_tracking_uri = 'file:logs/mlflow'.*expected such as sqlite:///"):
        MLflowRun(Config(mlflow_tracking_uri="file:logs/mlflow"), "a-run")


@pytest.mark.parametrize(
    ("setting", "value", "library", "extra"),
    [
        ("metrics_address", "127.0.0.1:9464", "prometheus_client", "metrics"),
        ("tensorboard_dir", "events", "torch.utils.tensorboard", "tensorboard"),
        ("mlflow_tracking_uri", "sqlite:///mlflow.db", "mlflow.tracking", "mlflow"),
    ],
)
def test_a_library_that_is_missing_is_named_with_its_command(
    setting: str, value: str, library: str, extra: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, library, None)
    with pytest.raises(MissingDependencyError, match=rf'pip install -e "\.\[{extra}\]"'):
        make_observers(parse_config({setting: value}), RunFolder(tmp_path), Seats("run", "session"))


@pytest.mark.parametrize("setting", ["metrics_address", "live_address"])
def test_a_taken_address_is_told_and_nobody_is_left_listening(setting: str, tmp_path: Path) -> None:
    needs("prometheus_client", "metrics")
    config = watched_settings(tmp_path)
    host, _, port = getattr(config, setting).rpartition(":")
    with socket.socket() as other:
        other.bind((host, int(port)))
        other.listen()
        with pytest.raises(NetworkError, match=rf"{setting} = .*can't listen there: Address already in use"):
            open_in_memory(config, {})
    open_in_memory(config, {}).close()  # both addresses are free again


@pytest.mark.parametrize(
    ("settings", "why"),
    [
        ({"metrics_address": "0.0.0.0:9464"}, "metrics_address = '0.0.0.0:9464': other machines can reach it"),
        ({"live_address": "orchestrator.example:80"}, "live_address = .* other machines can reach it"),
        ({"live_address": "8081"}, "live_address = '8081': expected host:port"),
        ({"live_address": "127.0.0.1:8080"}, "server_address is the same"),
        ({"live_address": "127.0.0.1:1", "metrics_address": "127.0.0.1:1"}, "metrics_address is the same"),
    ],
    ids=str,
)
def test_addresses_that_others_reach_and_that_are_taken_are_refused(settings: Mapping[str, Any], why: str) -> None:
    with pytest.raises(ConfigError, match=why):
        Config(**settings)


def test_a_flag_opens_the_addresses() -> None:
    Config(metrics_address="0.0.0.0:9464", live_address="0.0.0.0:8081", allow_open_monitoring=True)


class Broken(Observer):
    """Fails at its second call of a kind."""

    def __init__(self) -> None:
        self.calls = 0

    def committed(self, record: RoundRecord) -> None:
        self.calls += 1
        raise RuntimeError("a disk that is full")


def test_an_observer_that_fails_is_left_out_and_the_run_goes_on(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    config = watched_settings(tmp_path, metrics_address="", live_address="")
    run = open_in_memory(config, make_tenants(config))
    broken = Broken()
    run.observers.add([broken])
    with caplog.at_level(logging.WARNING):
        run.coordinator.run()
    run.close()
    assert (len(run.coordinator.records), broken.calls) == (2, 1)
    said = [record.getMessage() for record in caplog.records if "the run goes on" in record.getMessage()]
    assert said == ["Broken stops, the run goes on: RuntimeError: a disk that is full"]


def test_who_looks_on_changes_nothing(watched: tuple[OpenRun[Any], Config], tmp_path: Path) -> None:
    run, config = watched
    unseen = open_hostile(config.replace(metrics_address="", log_dir=str(tmp_path)))
    unseen.coordinator.run()
    unseen.close()
    for ours, theirs in zip(run.coordinator.model.parameters, unseen.coordinator.model.parameters, strict=True):
        np.testing.assert_array_equal(ours, theirs)
