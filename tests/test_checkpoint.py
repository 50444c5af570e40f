"""The checkpoint: what it holds, what it refuses, and what a resumed run repairs."""

import contextlib
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from numpy.typing import NDArray
from safetensors.numpy import load_file, save

from orchestrator.checkpoint import (
    FORMAT,
    Checkpoint,
    check_same_settings,
    content_sha256,
    load_checkpoint,
    save_checkpoint,
)
from orchestrator.run_folder import LoggedRounds, RunFolder
from orchestrator.run_server import main
from shared.config import load_config
from shared.data_sources.scaling import GRID
from shared.errors import ResumeError
from shared.preprocessing import BINS
from tests.conftest import Start
from tests.federations import make_tenants, open_in_memory
from tests.processes import free_port, read_metrics, write_config

SERVER, CLIENTS = "orchestrator/run_server.py", "client/run_clients.py"
FINISHED = LoggedRounds(3, bytes(range(32)))


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "checkpoint.safetensors"


def example() -> Checkpoint:
    return Checkpoint({"b": np.array([[1.5, -2.0]], np.float32), "a": np.arange(3, dtype=np.float32)}, FINISHED)


def test_what_is_saved_comes_back(path: Path) -> None:
    save_checkpoint(path, example())
    loaded = load_checkpoint(path)
    assert loaded.finished == FINISHED
    assert loaded.parameters.keys() == {"a", "b"}
    for name, array in example().parameters.items():
        assert loaded.parameters[name].dtype == np.float32
        np.testing.assert_array_equal(loaded.parameters[name], array)
    assert [p.name for p in path.parent.iterdir()] == [path.name]


def test_a_kill_while_writing_leaves_the_checkpoint_before(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save_checkpoint(path, example())

    def killed(_descriptor: int) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("os.fsync", killed)
    with pytest.raises(KeyboardInterrupt):
        save_checkpoint(path, Checkpoint({}))
    assert load_checkpoint(path).finished == FINISHED


def test_every_truncation_is_refused(path: Path) -> None:
    save_checkpoint(path, example())
    whole = path.read_bytes()
    for length in range(len(whole)):
        path.write_bytes(whole[:length])
        with pytest.raises(ResumeError, match="not a checkpoint of this version"):
            load_checkpoint(path)


@pytest.mark.parametrize("step", [9, pytest.param(1, marks=pytest.mark.long)])
def test_flipped_bits_are_refused(path: Path, step: int) -> None:
    """A weight with one bit turned is a number like any other: only the digest can tell."""
    save_checkpoint(path, example())
    whole = path.read_bytes()
    for bit in range(0, 8 * len(whole), step):  # of every byte one or all
        spoilt = bytearray(whole)
        spoilt[bit // 8] ^= 1 << bit % 8
        path.write_bytes(spoilt)
        with pytest.raises(ResumeError, match="not a checkpoint of this version"):
            load_checkpoint(path)


def test_a_damaged_weight_is_named_as_damage(path: Path) -> None:
    save_checkpoint(path, example())
    weight = np.float32(-2.0).tobytes()
    spoilt = path.read_bytes().replace(weight, np.float32(-2.0000002).tobytes())
    path.write_bytes(spoilt)
    with pytest.raises(ResumeError, match="it is damaged: its SHA-256 differs"):
        load_checkpoint(path)


def test_it_does_not_grow_with_the_rounds(path: Path) -> None:
    """It held their records once: the header of 1,000 clients reached safetensors' limit of 100 MB at round 1,210."""
    sizes = []
    for rounds in (0, 1, 100_000):
        finished = LoggedRounds(rounds, bytes(32))
        save_checkpoint(path, replace(example(), finished=finished))
        assert load_checkpoint(path).finished == finished
        sizes.append(path.stat().st_size)
    assert len(set(sizes)) == 1


def _of(**server: NDArray[Any]) -> bytes:
    """A checkpoint whose digest is right, so that nothing but what it says of its rounds can be why it is refused."""
    tensors: dict[str, NDArray[Any]] = {
        "a": np.zeros(1, np.float32),
        **{f"server/{name}": array for name, array in server.items()},
    }
    return save(tensors, metadata={"sha256": content_sha256(tensors), "format": str(FORMAT)})


ROUNDS, LOG_SHA256 = np.ones(1, np.int64), np.zeros(32, np.uint8)


@pytest.mark.parametrize(
    "content",
    [
        pytest.param(b"", id="empty"),
        pytest.param(b"\x80\x04cos\nsystem\n(S'true'\ntR.", id="a pickle that would run a command"),
        pytest.param(b"\xff" * 64, id="a header of 2**64 - 1 bytes"),
        pytest.param((200).to_bytes(8, "little") + b'{"a":{"dtype":"F32","shape":[1]', id="half a header"),
        pytest.param(save({"a": np.zeros(1, np.float32)}), id="no digest"),
        pytest.param(_of(log_sha256=LOG_SHA256), id="no number of rounds"),
        pytest.param(_of(rounds=ROUNDS), id="no digest of the log"),
        pytest.param(_of(rounds=ROUNDS, log_sha256=LOG_SHA256[1:]), id="a digest of 31 bytes"),
        pytest.param(_of(rounds=ROUNDS, log_sha256=np.zeros(32, np.float32)), id="a digest of numbers"),
        pytest.param(_of(rounds=-ROUNDS, log_sha256=LOG_SHA256), id="round -1"),
        pytest.param(_of(rounds=np.ones(2, np.int64), log_sha256=LOG_SHA256), id="two numbers of rounds"),
        pytest.param(_of(rounds=np.ones(1, np.float64), log_sha256=LOG_SHA256), id="rounds as a float"),
    ],
)
def test_what_is_no_checkpoint_is_refused(path: Path, content: bytes) -> None:
    path.write_bytes(content)
    with pytest.raises(ResumeError, match="not a checkpoint of this version"):
        load_checkpoint(path)


@pytest.mark.parametrize(
    ("metadata", "words"),
    [
        ({}, "an earlier version wrote it, which gave it no number"),
        ({"format": str(FORMAT + 1)}, f"it is of format '{FORMAT + 1}', this version reads {FORMAT}"),
    ],
)
def test_a_checkpoint_of_another_version_is_refused_by_name(path: Path, metadata: dict[str, str], words: str) -> None:
    tensors: dict[str, NDArray[Any]] = {"server/rounds": ROUNDS, "server/log_sha256": LOG_SHA256}
    path.write_bytes(save(tensors, metadata={"sha256": content_sha256(tensors), **metadata}))
    with pytest.raises(ResumeError, match=words) as caught:
        load_checkpoint(path)
    assert "start a run without --resume" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_missing_checkpoint_says_what_to_do(path: Path) -> None:
    with pytest.raises(ResumeError, match="no checkpoint; start the run without --resume"):
        load_checkpoint(path)


def test_settings_that_change_the_model_are_named(tmp_path: Path) -> None:
    before = load_config(write_config(tmp_path))
    run = RunFolder.create(before)
    check_same_settings(run, before)
    free = before.replace(num_rounds=9, round_timeout=1.0, server_address="127.0.0.1:1")
    check_same_settings(run, free)
    with pytest.raises(ResumeError, match=r"learning_rate was 0\.05, is 0\.1; restore") as caught:
        check_same_settings(run, free.replace(learning_rate=0.1))
    assert "num_rounds" not in str(caught.value)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("seed", 1),
        ("num_hidden_units", (4,)),
        ("he_scheme", "none"),
        ("weighting", "examples"),
        ("num_clients", 4),
    ],
)
def test_no_such_setting_may_change(tmp_path: Path, key: str, value: Any) -> None:
    before = load_config(write_config(tmp_path))
    run = RunFolder.create(before)
    changes: dict[str, Any] = {key: value}
    with pytest.raises(ResumeError, match=key):
        check_same_settings(run, before.replace(**changes))


def test_it_holds_no_key(finished: tuple[Path, Path]) -> None:
    """There is no room for one: the model, the clients' summed statistics, and how many rounds; nothing else."""
    _, run = finished
    content = (run / "checkpoint.safetensors").read_bytes()
    length = int.from_bytes(content[:8], "little")
    header = json.loads(content[8 : 8 + length])
    metadata = header.pop("__metadata__")
    assert metadata.keys() == {"sha256", "format"}
    rounds = {"server/rounds": 8, "server/log_sha256": 32}  # bytes
    statistics = {"preprocessing/ranks", "preprocessing/counts"}
    assert header.keys() == load_file(run / "model.safetensors").keys() | statistics | rounds.keys()
    statistics_bytes = 2 * 6 * GRID + 8 * 6 * BINS  # of 6 features
    assert len(content) == 8 + length + 4 * 29 + statistics_bytes + sum(rounds.values())


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """The config of a run of two rounds that ended well, and its folder."""
    folder = tmp_path_factory.mktemp("finished")
    path = write_config(folder)
    config = load_config(path)
    with contextlib.closing(open_in_memory(config, make_tenants(config))) as run:
        run.coordinator.run()
    return path, folder / "logs" / "latest"


@pytest.mark.long
def test_a_finished_run_is_repaired_and_ends_at_once(start: Start, finished: tuple[Path, Path]) -> None:
    """Killed in its last round: after the checkpoint and before the model, or in a round that had no checkpoint yet."""
    config, run = finished
    model, metrics = (run / "model.safetensors").read_bytes(), (run / "metrics.jsonl").read_text(encoding="utf-8")
    for beyond in ("", '{"round": 3}\n', '{"round": 3, "con'):
        (run / "model.safetensors").write_bytes(b"of the round before")
        (run / "metrics.jsonl").write_text(metrics + beyond, encoding="utf-8")
        end = start(SERVER, "--config", str(config), "--resume").finish()
        assert end.code == 0, end.output
        assert "resuming after round 2 of 2" in end.output
        assert "rounds of the global model" in end.output
        assert (f"cut off {len(beyond)} bytes after round 2" in end.output) == bool(beyond)
        assert (run / "metrics.jsonl").read_text(encoding="utf-8") == metrics
        assert (run / "model.safetensors").read_bytes() == model
        assert "waiting for clients" not in end.output


def test_a_run_that_lost_a_round_of_its_log_is_refused_in_one_line(
    finished: tuple[Path, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    config, run = finished
    metrics = (run / "metrics.jsonl").read_text(encoding="utf-8")
    (run / "metrics.jsonl").write_text(metrics.splitlines(keepends=True)[0], encoding="utf-8")
    code = main(["--config", str(config), "--resume"])
    (run / "metrics.jsonl").write_text(metrics, encoding="utf-8")
    said = capsys.readouterr().out
    assert code == 1
    assert "metrics.jsonl, line 2: missing or cut off, and the checkpoint is of round 2; restore" in said
    assert "Traceback" not in said


def test_nothing_to_resume_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--config", str(write_config(tmp_path)), "--resume"]) == 1
    said = capsys.readouterr().out
    assert len(said.splitlines()) == 1
    assert "no run to resume; start one without --resume" in said


@pytest.mark.long
def test_a_start_that_fails_hides_no_run(start: Start, finished: tuple[Path, Path], tmp_path: Path) -> None:
    """`latest` moves, and a run can be resumed, from its first checkpoint on."""
    config, run = finished
    settings = yaml.safe_load(config.read_text(encoding="utf-8"))
    missing = tmp_path / "missing.yaml"
    missing.write_text(yaml.safe_dump(settings | {"he_key_file": str(tmp_path / "no-such-key.json")}), encoding="utf-8")
    before = run.resolve()
    end = start(SERVER, "--config", str(missing)).finish()
    assert end.code == 1, end.output
    folders = [path for path in run.parent.iterdir() if not path.is_symlink() and path.name != "state"]
    assert len(folders) == 2, "the failed start leaves its log"
    assert run.resolve() == before
    again = start(SERVER, "--config", str(config), "--resume").finish()
    assert again.code == 0, again.output
    assert f"run {before.name}" in again.output


def test_the_newest_run_with_a_checkpoint_is_resumed_wherever_the_link_points(tmp_path: Path) -> None:
    """A server killed between its first checkpoint and the link."""
    config = load_config(write_config(tmp_path))
    names = ["20260101-000000-ffffff", "20260102-000000-aaaaaa", "20260103-000000-000000"]
    for name in names:
        (tmp_path / "logs" / name).mkdir(parents=True)
    for name in names[:2]:
        save_checkpoint(tmp_path / "logs" / name / "checkpoint.safetensors", example())
    (tmp_path / "logs" / "latest").symlink_to(names[0])
    assert RunFolder.find(config, "latest").name == names[1]
    for name in names[:2]:  # also when the older one is gone on with
        RunFolder(tmp_path / "logs" / name).publish()
        assert (tmp_path / "logs" / "latest").resolve().name == names[1]


def test_a_run_from_a_clock_that_was_ahead_is_told_of(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """By its name it is the newest for years, and --resume goes on with it."""
    config = load_config(write_config(tmp_path))
    for name in (RunFolder.create(config).name, "20990101-000000-abcdef"):
        assert "still to come" not in caplog.text
        (tmp_path / "logs" / name).mkdir(exist_ok=True)
        save_checkpoint(tmp_path / "logs" / name / "checkpoint.safetensors", example())
        RunFolder(tmp_path / "logs" / name).publish()
    assert "logs/20990101-000000-abcdef began at a time that is still to come" in caplog.text


@pytest.mark.long
def test_two_servers_cannot_write_one_run(start: Start, tmp_path: Path) -> None:
    config = write_config(tmp_path)
    server = start(SERVER, "--config", str(config))
    server.wait_for_line("waiting for clients")
    other = tmp_path / "other.yaml"  # the same run at another address: the taken port must not be what saves it
    settings = yaml.safe_load(config.read_text(encoding="utf-8")) | {"server_address": f"127.0.0.1:{free_port()}"}
    other.write_text(yaml.safe_dump(settings), encoding="utf-8")
    end = start(SERVER, "--config", str(other), "--resume").finish()
    assert end.code == 1
    assert f"the process {server.pid} is at work on this run; wait for its end or stop it" in end.output
    server.kill()
    resumed = start(SERVER, "--config", str(other), "--resume")
    resumed.wait_for_line("resuming after round 0 of 2")


@pytest.mark.long
def test_a_full_disk_ends_the_server_and_the_run_can_go_on(start: Start, tmp_path: Path) -> None:
    config = write_config(tmp_path, num_rounds=2)
    server = start(SERVER, "--config", str(config))
    server.wait_for_line("listening on")
    checkpoint = (tmp_path / "logs" / "latest").resolve() / "checkpoint.safetensors"
    first = checkpoint.rename(checkpoint.with_name("first"))
    checkpoint.mkdir()  # stands in for a disk that takes no more: the next checkpoint can't be written
    clients = start(CLIENTS, "--config", str(config))
    end = server.finish()
    assert end.code == 1
    assert "go on with --resume" in end.output
    assert "Traceback" not in end.output
    checkpoint.rmdir()
    first.rename(checkpoint)
    server_end = start(SERVER, "--config", str(config), "--resume").finish()
    assert server_end.code == 0, server_end.output
    assert clients.finish().code == 0
    assert [r["round"] for r in read_metrics(tmp_path)] == [1, 2]
