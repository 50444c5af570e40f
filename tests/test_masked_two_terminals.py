"""Masked runs as a person starts them: the same model as without masks, and a loss at every stage of a round."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file

from orchestrator.pki import identity_settings, provision
from tests.conftest import Start
from tests.processes import read_metrics, write_config

pytestmark = pytest.mark.long

SERVER, CLIENTS, FAULTY = "orchestrator/run_server.py", "client/run_clients.py", "tests/faulty_masked_client.py"


def enrol(folder: Path, clients: int) -> dict[str, Any]:
    """Identities for a run, and the settings that name them."""
    provision(folder / "pki", clients, [])
    return identity_settings(folder / "pki")


def server_log(folder: Path) -> str:
    """What the server of the latest run wrote down."""
    return (folder / "logs/latest/server.log").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("executor", "changes"),
    [("thread", {}), ("process", {"weighting": "examples", "max_examples": 200, "he_packing": False})],
)
def test_masked_and_unmasked_runs_give_the_same_model(
    start: Start, tmp_path: Path, executor: str, changes: dict[str, Any]
) -> None:
    models = []
    identities = enrol(tmp_path, 3)
    for mode in ("", "none"):  # empty: with identities it is masked
        folder = tmp_path / f"mode-{mode}"
        folder.mkdir()
        config = str(write_config(folder, secure_aggregation=mode, **identities, **changes))
        server = start(SERVER, "--config", config)
        clients = start(CLIENTS, "--config", config, "--executor", executor)
        server_end, client_end = server.finish(), clients.finish()
        assert (server_end.code, client_end.code) == (0, 0), server_end.output + client_end.output
        for output in (server_end.output, client_end.output):
            assert output.count("UPDATES ARE NOT MASKED") == (mode == "none")
        stage = "round 2: 3 of 3 clients confirmed who is in the sum"
        assert (stage in server_log(folder)) == (mode == "")
        assert stage not in server_end.output, "eight lines a round are for the log"
        assert [r["contributors"] for r in read_metrics(folder)] == [3, 3]
        models.append(load_file(folder / "logs" / "latest" / "model.safetensors"))
    masked, unmasked = models
    for name, tensor in unmasked.items():
        # Masks change no sum by a single bit, so the runs are the same run.
        np.testing.assert_array_equal(masked[name], tensor)


@pytest.mark.timeout(400)  # most of it is waiting for clients that hang
def test_a_client_lost_at_each_stage(start: Start, tmp_path: Path) -> None:
    stages = ("advertise", "share", "train", "confirm", "reveal")
    three = [f"{2 + i}:{stage}:hang" for i, stage in enumerate(stages)]
    three += [f"{7 + i}:{stage}:kill" for i, stage in enumerate(stages)]
    three += ["12:confirm:forge", "13:train:kill", "14:share:kill"]
    config = str(
        write_config(
            tmp_path,
            num_rounds=16,
            num_clients=4,
            min_available_clients=4,
            min_fit_clients=4,  # each round waits until whoever was lost is back
            fraction_evaluate=0.0,
            stage_timeout=12.0,
            round_timeout=20.0,
            **enrol(tmp_path, 4),
        )
    )
    server = start(SERVER, "--config", config)
    good = start(CLIENTS, "--config", config, "--client_ids", "0,1")
    start(FAULTY, config, "2", "13:train:kill,14:share:kill,15:share:forge")
    start(FAULTY, config, "3", ",".join(three))
    server_end = server.finish(timeout=390)
    assert server_end.code == 0, server_end.output
    assert good.finish().code == 0
    assert "Traceback" not in server_end.output

    rounds = read_metrics(tmp_path)
    # Of four clients one may be lost. Who is lost after its update has arrived is in the model.
    assert [r["contributors"] for r in rounds] == [4, 3, 3, 3, 4, 4, 3, 3, 3, 4, 4, 4, 0, 0, 3, 4]
    for r in rounds[1:4] + rounds[6:9]:
        assert r["contributor_ids"] == ["0", "1", "2"]
        assert list(r["failed"]) == ["3"]
    assert rounds[1]["failed"] == {"3": "at advertise: lost: disconnected, or no answer within stage_timeout"}
    assert rounds[4]["failed"] == {}
    assert rounds[12]["skipped"] == "stage 'mask': 2 clients answered; expected at least 3"
    assert rounds[13]["skipped"] == "stage 'share': 2 clients answered; expected at least 3"
    assert rounds[13]["loss"] == rounds[11]["loss"], "the global model must stay"
    assert rounds[14]["loss"] != rounds[11]["loss"]
    forged = "masking: bad signature: a signature does not verify"
    assert rounds[14]["failed"] == {"2": f"at share: {forged}"}
    assert "client 3 is left out: at confirm: masking: malformed message" in server_end.output


def test_a_server_killed_inside_a_round_resumes_with_the_same_clients(start: Start, tmp_path: Path) -> None:
    config = str(write_config(tmp_path, num_rounds=6, local_epochs=20, **enrol(tmp_path, 3)))
    first = start(SERVER, "--config", config)
    clients = start(CLIENTS, "--config", config)
    first.wait_for_line("round 3 of 6: 3 clients train")  # stages 0 and 1 are over, the masks of round 3 are agreed
    first.kill()
    second = start(SERVER, "--config", config, "--resume")
    second_end, client_end = second.finish(), clients.finish()
    assert (second_end.code, client_end.code) == (0, 0), second_end.output + client_end.output
    assert server_log(tmp_path).count("round 3: 3 of 3 clients made fresh keys for this round") == 2
    assert [r["contributors"] for r in read_metrics(tmp_path)] == [3] * 6
    # The clients have entered round 3 twice, in two sessions, and remember both.
    lines = map(json.loads, (tmp_path / "logs/state/client-0.jsonl").read_text().splitlines())
    entered = [line["at"][2] for line in lines if "at" in line and line["at"][1::2] == ["weights", 0]]
    assert entered == [1, 2, 3, 3, 4, 5, 6]


@pytest.mark.parametrize(("planned", "run"), [(15, 3), (2, 2)])
def test_a_run_that_every_client_refuses_stops_after_three_rounds_and_nobody_says_it_went_well(
    start: Start, tmp_path: Path, planned: int, run: int
) -> None:
    config = write_config(tmp_path, num_rounds=planned, **enrol(tmp_path, 3))
    other = tmp_path / "clients.yaml"
    other.write_text(config.read_text(encoding="utf-8") + "learning_rate: 0.011\n", encoding="utf-8")
    server = start(SERVER, "--config", str(config))
    clients = start(CLIENTS, "--config", str(other))
    server_end, client_end = server.finish(), clients.finish()
    assert (server_end.code, client_end.code) == (1, 1), server_end.output + client_end.output
    assert len(read_metrics(tmp_path)) == run
    said = "3 rounds in a row came to no sum" if run == 3 else "no round changed the model"
    assert said in server_end.output
    assert "client 0: round: other settings: the settings of the training differ from its own" in server_end.output
    assert "learning_rate = 0.0" in client_end.output
    assert "0.011" in client_end.output
    assert "took part in no round: round: other settings" in client_end.output
