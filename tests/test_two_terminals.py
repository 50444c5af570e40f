"""The workflow as a person runs it: a server script, a client launcher, real Flower between them."""

import socket
import time
from pathlib import Path

import numpy as np
import psutil
import pytest
from safetensors.numpy import load_file

from client import run_clients
from orchestrator import run_server
from shared.config import load_config
from tests.conftest import Start
from tests.grids import until
from tests.processes import read_metrics, write_config

SERVER, CLIENTS, FAULTY = "orchestrator/run_server.py", "client/run_clients.py", "tests/faulty_client.py"
ROUND_KEYS = {
    "round", "contributors", "failures", "loss", "accuracy", "roc_auc", "pr_auc", "fpr", "train_seconds",
    "encrypt_seconds", "aggregate_seconds", "decrypt_seconds", "evaluate_seconds", "round_seconds",
    "upload_bytes_per_client", "client_rows", "fit_seconds",
}  # fmt: skip


@pytest.mark.parametrize(
    ("executor", "first"), [pytest.param("thread", "clients", marks=pytest.mark.long), ("process", "server")]
)
def test_both_commands_end_by_themselves(start: Start, tmp_path: Path, executor: str, first: str) -> None:
    config = str(write_config(tmp_path))
    client_arguments = ("--config", config, "--num_clients", "3", "--executor", executor)
    if first == "clients":
        clients = start(CLIENTS, *client_arguments)
        time.sleep(6)  # long enough that its first tries find no server
        server = start(SERVER, "--config", config)
    else:
        server = start(SERVER, "--config", config)
        server.wait_for_line("waiting for clients")
        clients = start(CLIENTS, *client_arguments)
    client_end, server_end = clients.finish(), server.finish()
    assert (client_end.code, server_end.code) == (0, 0), client_end.output + server_end.output
    server_output = server_end.output
    assert "rounds of the global model" in server_output
    assert "deprecated" not in client_end.output + server_end.output

    rounds = read_metrics(tmp_path)
    assert [r["round"] for r in rounds] == [1, 2]
    assert all(r["contributors"] == 3 and r["failures"] == 0 for r in rounds)
    assert set(rounds[0]) >= ROUND_KEYS
    assert 128 < rounds[0]["upload_bytes_per_client"] < 1000  # 29 parameters in 2 ciphertexts of 128 bytes
    run = tmp_path / "logs" / "latest"
    assert {p.name for p in run.iterdir()} == {
        "config.yaml", "server.log", "client-0.log", "client-1.log", "client-2.log", "model.safetensors",
        "metrics.jsonl", "checkpoint.safetensors", "starts.jsonl", "evaluation.json", "report.html",
        "bundle.json", "server.lock", "run_log.jsonl",
    }  # fmt: skip
    for path in (run.resolve(), *run.iterdir()):
        assert path.stat().st_mode & 0o077 == 0, f"{path} is not its owner's alone"
    assert load_config(run / "config.yaml") == load_config(config)
    assert load_file(run / "model.safetensors")["layers.0.weight"].shape == (3, 6)


@pytest.mark.long
def test_encrypted_and_plain_runs_give_the_same_model(start: Start, tmp_path: Path) -> None:
    models = []
    for scheme in ("paillier", "none"):
        folder = tmp_path / scheme
        folder.mkdir()
        config = str(write_config(folder, he_scheme=scheme))
        server, clients = start(SERVER, "--config", config), start(CLIENTS, "--config", config)
        server_end, client_end = server.finish(), clients.finish()
        assert (server_end.code, client_end.code) == (0, 0), server_end.output + client_end.output
        assert ("ENCRYPTION IS OFF" in server_end.output) == (scheme == "none")
        models.append(load_file(folder / "logs" / "latest" / "model.safetensors"))
    encrypted, plain = models
    assert encrypted.keys() == plain.keys()
    for name, tensor in plain.items():
        # Two rounds, each value rounded to 2**-16; what the second round makes of the first's rounding stays small.
        np.testing.assert_allclose(encrypted[name], tensor, atol=2**-12)
        assert np.any(encrypted[name] != tensor) or tensor.size == 1, "a twin that sends the same thing tests nothing"


@pytest.mark.long
@pytest.mark.parametrize("fault", ["raise", "exit", pytest.param("hang", marks=pytest.mark.long)])
def test_one_client_lost_in_round_two_of_three(start: Start, tmp_path: Path, fault: str) -> None:
    config = str(write_config(tmp_path, num_rounds=3, min_fit_clients=2, round_timeout=15.0))
    server = start(SERVER, "--config", config)
    good = start(CLIENTS, "--config", config, "--client_ids", "0,1")
    start(FAULTY, config, "2", fault, "2")
    server_end = server.finish()
    assert server_end.code == 0, server_end.output
    assert good.finish().code == 0
    rounds = read_metrics(tmp_path)
    # A client that merely raised is there again in round 3.
    assert [r["contributors"] for r in rounds] == [3, 2, 3 if fault == "raise" else 2]
    assert rounds[1]["contributor_ids"] == ["0", "1"]
    assert list(rounds[1]["failed"]) == ["2"]
    if fault == "raise":
        assert rounds[1]["failed"]["2"] == "AttributeError", "an exception's text could quote the tenant's data"


@pytest.mark.long
def test_too_few_clients_is_an_error_that_counts_them(start: Start, tmp_path: Path) -> None:
    config = str(write_config(tmp_path, client_wait_timeout=12.0, server_wait_timeout=3.0))
    server = start(SERVER, "--config", config)
    clients = start(CLIENTS, "--config", config, "--client_ids", "0,1")
    end = server.finish()
    assert end.code == 1
    assert "2 clients came within 12 s, 3 are needed" in end.output
    # The server is gone: the clients give up after their own time-out, one line each.
    client_end = clients.finish()
    assert client_end.code == 1
    assert client_end.output.count("no server at 127.0.0.1") == 2
    assert "Traceback" not in end.output + client_end.output


def test_a_taken_port_is_one_line(start: Start, tmp_path: Path) -> None:
    path = write_config(tmp_path)
    host, port = load_config(path).server_address.split(":")
    with socket.socket() as other:
        other.bind((host, int(port)))
        other.listen()
        end = start(SERVER, "--config", str(path)).finish()
    assert end.code == 1
    assert len(end.output.splitlines()) == 1
    assert "Address already in use" in end.output


def test_a_wrong_setting_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = str(write_config(tmp_path, local_epoch=3))
    for main in (run_server.main, run_clients.main):
        assert main(["--config", config]) == 2
        output = "".join(capsys.readouterr())
        assert len(output.splitlines()) == 1
        assert "local_epoch: unknown key (value 3); did you mean 'local_epochs'?" in output


@pytest.mark.long
def test_overrides_reach_the_run_and_an_older_run_is_resumed_by_its_name(start: Start, tmp_path: Path) -> None:
    config = str(write_config(tmp_path, num_rounds=9))
    names: list[str] = []
    for rounds, seed, again in ((1, 7, False), (1, 8, False), (2, 7, True)):
        chosen = ["--config", config, "--set", f"num_rounds={rounds}", "--set", f"seed={seed}"]
        resumed = ["--resume", "--run", names[0]] if again else []
        server, clients = start(SERVER, *chosen, *resumed), start(CLIENTS, *chosen)
        server_end, client_end = server.finish(), clients.finish()
        assert (server_end.code, client_end.code) == (0, 0), server_end.output + client_end.output
        if not again:
            names.append((tmp_path / "logs" / "latest").resolve().name)
    older, newest = (tmp_path / "logs" / name for name in names)
    assert load_config(older / "config.yaml").seed == 7
    assert [len((run / "metrics.jsonl").read_text().splitlines()) for run in (older, newest)] == [2, 1]
    assert (tmp_path / "logs" / "latest").resolve() == newest


def test_wrong_overrides_and_runs_are_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = str(write_config(tmp_path))
    for main in (run_server.main, run_clients.main):
        assert main(["--config", config, "--set", "num_round=3"]) == 2
        output = "".join(capsys.readouterr())
        assert len(output.splitlines()) == 1, output
        assert "--set num_round=3: num_round: unknown key (value 3); did you mean 'num_rounds'?" in output
    assert run_server.main(["--config", config, "--resume", "--run", "20260101-000000-abcdef"]) == 1
    output = "".join(capsys.readouterr())
    assert len(output.splitlines()) == 1, output
    assert "20260101-000000-abcdef: no run to resume; start one without --resume" in output
    with pytest.raises(SystemExit, match="2"):
        run_server.main(["--config", config, "--run", "20260101-000000-abcdef"])
    told = capsys.readouterr().err
    assert told.endswith("--run names the run to go on with: give it together with --resume\n")


@pytest.mark.long
@pytest.mark.parametrize("executor", ["thread", "process"])
def test_ctrl_c_ends_server_and_clients_at_once(start: Start, tmp_path: Path, executor: str) -> None:
    config = str(write_config(tmp_path, num_rounds=10_000, num_samples_per_client=2000, local_epochs=50))
    server = start(SERVER, "--config", config)
    clients = start(CLIENTS, "--config", config, "--executor", executor)
    clients.wait_for_line("training, local epochs")
    for process in (clients, server):
        process.interrupt()
        end = process.finish(timeout=60.0)  # to the end of all output: PyTorch takes a while to be unloaded
        assert end.code == 130, end.output
        assert "interrupted" in end.output
        assert "Traceback" not in end.output


@pytest.mark.long
def test_ctrl_c_while_the_first_client_starts_leaves_none_behind(start: Start, tmp_path: Path) -> None:
    """It is forked after the launcher has ended, and looked for the server as a tenant that nobody knew of."""
    config = str(write_config(tmp_path, server_wait_timeout=3600))
    clients = start(CLIENTS, "--config", config, "--executor", "process")
    clients.wait_for_line("waiting for PyTorch and Flower")
    launcher = psutil.Process(clients.pid)
    until(lambda: any("forkserver" in argument for child in launcher.children() for argument in child.cmdline()))
    time.sleep(0.3)  # it loads PyTorch for seconds, and the first client is asked for
    clients.interrupt()
    end = clients.finish(timeout=90.0)  # to the end of all output, and so of each process that may write some
    assert end.code == 130, end.output


def of_process(pid: int, name: str) -> str:
    return Path(f"/proc/{pid}/{name}").read_text(encoding="utf-8", errors="replace")


@pytest.mark.long
def test_processes_are_forked_from_one_in_which_nothing_is_at_work(start: Start, tmp_path: Path) -> None:
    """A thread would not survive the fork, and a lock that it holds would stay locked."""
    config = str(write_config(tmp_path, num_rounds=10_000))
    server = start(SERVER, "--config", config)
    launcher = start(CLIENTS, "--config", config, "--executor", "process")
    before = launcher.wait_for_line("round 1: training")
    assert before.count("waiting for PyTorch and Flower") == 1
    children = psutil.Process(launcher.pid).children()
    (source,) = (child for child in children if "forkserver" in " ".join(child.cmdline()))
    clients = source.children()
    assert len(clients) == 3
    libraries = ("libtorch_cpu", "cygrpc")
    assert all(name in of_process(source.pid, "maps") for name in libraries), "each client has to load it"
    assert not any(name in of_process(launcher.pid, "maps") for name in libraries), "it costs the launcher seconds"
    # The one thread that may be there is Arrow's allocator's, which minds forks.
    threads = {of_process(source.pid, f"task/{thread.id}/comm").strip() for thread in source.threads()[1:]}
    assert threads <= {"jemalloc_bg_thd"}
    sockets = {name for client in clients for name in [connection.laddr for connection in client.net_connections()]}
    assert len(sockets) == 3, "each client has a connection of its own"
    assert source.net_connections() == [], "gRPC was at work before the fork"
    launcher.interrupt()
    assert launcher.finish(timeout=60.0).code == 130
    psutil.wait_procs([source, *clients], timeout=10.0)
    assert not any(process.is_running() for process in (source, *clients)), "somebody is left behind"
    server.kill()


@pytest.mark.long
def test_an_id_that_is_taken_is_refused_and_the_run_goes_on(start: Start, tmp_path: Path) -> None:
    config = str(write_config(tmp_path, server_wait_timeout=3.0))
    server = start(SERVER, "--config", config)
    first = start(CLIENTS, "--config", config, "--client_ids", "0,1")
    server.wait_for_line("2 of 3 connected")
    double = start(CLIENTS, "--config", config, "--client_ids", "1").finish()
    assert double.code == 1
    assert "a client 1 is connected already" in double.output
    last = start(CLIENTS, "--config", config, "--client_ids", "2")
    assert [p.finish().code for p in (server, first, last)] == [0, 0, 0]
    assert [r["contributors"] for r in read_metrics(tmp_path)] == [3, 3]
