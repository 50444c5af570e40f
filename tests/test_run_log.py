"""The log chain of a run: every change of it is found, a rewritten history shows, and a resumed run goes on with it."""

import json
import logging
import shutil
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import given
from hypothesis import strategies as st

from client.log_heads import LogHeads, heads_folder
from orchestrator.audit_log import main as audit_log
from orchestrator.checkpoint import Checkpoint, save_checkpoint
from orchestrator.run_folder import RoundRecord, RunFolder
from orchestrator.run_log import RunLog, log_key
from orchestrator.run_log_check import ENTRY_PREFIX, canonical, check_log
from shared.config import Config
from shared.errors import KeyMaterialError, ResumeError, RunLogError
from shared.exchange import Kind, Refusal, Request
from shared.log_head import Head, read_heads
from tests.federations import Tapped, make_tenants, masked_settings, open_in_memory
from tests.full_disks import no_file_beyond
from tests.processes import SMALL

NAME = "20261127-101112-0a1b2c"
LOG = logging.getLogger("test")


def small(folder: Path, **changes: Any) -> Config:
    return Config(**{**SMALL, "num_hidden_units": (3,), "log_dir": str(folder / "logs"), **changes})


def written(parent: Path, key: Ed25519PrivateKey, rounds: int = 2, contributors: tuple[str, ...] = ("0", "1")) -> Path:
    """The file of a short chain, in a run's folder that holds its records as well."""
    folder = RunFolder(parent / NAME)
    folder.path.mkdir()
    folder.settings.write_text("num_rounds: 2\n")
    log = RunLog(folder, key)
    log.append_start({"time": "2026-11-27T10:11:12+00:00"}, 0)
    for number in range(1, rounds + 1):
        record = RoundRecord(round=number, contributor_ids=list(contributors), failed={"2": "lost: no answer"})
        log.append_round(record, folder.append_record(record), "ab" * 32)
    return folder.run_log


@pytest.fixture(scope="module")
def key() -> Ed25519PrivateKey:
    return Ed25519PrivateKey.generate()


@pytest.fixture(scope="module")
def chain(key: Ed25519PrivateKey, tmp_path_factory: pytest.TempPathFactory) -> bytes:
    return written(tmp_path_factory.mktemp("chain"), key, rounds=1).read_bytes()


def refused(path: Path, content: bytes) -> bool:
    path.write_bytes(content)
    try:
        check_log(path)
    except RunLogError:
        return True
    return False


def test_the_chain_as_it_was_written_is_whole(chain: bytes, tmp_path: Path) -> None:
    assert not refused(tmp_path / "log", chain), "or the tests below show nothing"


def test_a_byte_that_was_changed_or_removed_anywhere_is_found(chain: bytes, tmp_path: Path) -> None:
    path = tmp_path / "log"
    for place, byte in enumerate(chain):
        # Another digit or letter, and the same letter in the other case, as hex digits may be read in both.
        for other in {byte ^ 1, byte ^ 0x20} if chr(byte).isalpha() else {byte ^ 1}:
            assert refused(path, chain[:place] + bytes([other]) + chain[place + 1 :]), f"byte {place} as {other:#x}"
        assert refused(path, chain[:place] + chain[place + 1 :]), f"byte {place} removed"


@given(data=st.data())
def test_bytes_that_were_added_or_swapped_anywhere_are_found(
    chain: bytes, tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    path = tmp_path_factory.getbasetemp() / "added"
    place = data.draw(st.integers(0, len(chain)))
    added = data.draw(st.binary(min_size=1, max_size=40) | st.sampled_from([b" ", b"\n", b"0", b"{}\n"]))
    assert refused(path, chain[:place] + added + chain[place:])
    other = data.draw(st.integers(0, len(chain) - 1))
    first, second = sorted((min(place, len(chain) - 1), other))
    if chain[first] != chain[second]:
        swapped = bytearray(chain)
        swapped[first], swapped[second] = swapped[second], swapped[first]
        assert refused(path, bytes(swapped))


def test_entries_that_were_removed_swapped_or_doubled_are_found(key: Ed25519PrivateKey, tmp_path: Path) -> None:
    lines = written(tmp_path, key, rounds=4).read_bytes().splitlines(keepends=True)
    path = tmp_path / "log"
    for place in range(len(lines) - 1):
        assert refused(path, b"".join(lines[:place] + lines[place + 1 :]))
        swapped = list(lines)
        swapped[place], swapped[place + 1] = swapped[place + 1], swapped[place]
        assert refused(path, b"".join(swapped))
        assert refused(path, b"".join(lines[: place + 1] + lines[place:]))
    assert refused(path, b"")


def test_an_entry_of_another_run_does_not_fit(key: Ed25519PrivateKey, tmp_path: Path) -> None:
    path = written(tmp_path, key)
    so_far = check_log(path)
    other = RunFolder(tmp_path / NAME.replace("0a1b2c", "ffffff"))
    other.path.mkdir()
    (other.run_log).write_bytes(path.read_bytes())
    other.settings.write_text("")
    RunLog(other, key, so_far).append_round(RoundRecord(round=3), "", "")
    with pytest.raises(RunLogError, match=r"entry 4: it is of another run"):
        check_log(other.run_log)


def test_a_chain_without_its_links_would_pass_with_an_entry_left_out(
    key: Ed25519PrivateKey, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The broken twin: signatures alone don't show that an entry is missing."""

    def careless(entry: Mapping[str, Any], signer: bytes, number: int, previous: bytes) -> None:
        body = {name: value for name, value in entry.items() if name != "signature"}
        key.public_key().verify(bytes.fromhex(entry["signature"]), ENTRY_PREFIX + canonical(body))

    lines = written(tmp_path, key, rounds=3).read_bytes().splitlines(keepends=True)
    assert refused(tmp_path / "log", b"".join(lines[:1] + lines[2:]))
    monkeypatch.setattr("orchestrator.run_log_check._check_entry", careless)
    monkeypatch.setattr("orchestrator.run_log_check._count", lambda *_, **__: None)
    assert not refused(tmp_path / "log", b"".join(lines[:1] + lines[2:]))


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Config:
    """The settings of a run of two rounds that ended well."""
    config = small(tmp_path_factory.mktemp("finished"))
    run = open_in_memory(config, make_tenants(config))
    run.coordinator.run()
    run.close()
    return config


class Twice:
    """A copy of that run, and an operator who would like it not to have been."""

    def __init__(self, finished: Config, folder: Path) -> None:
        shutil.copytree(finished.log_dir, folder / "logs", symlinks=True)
        self.config = finished.replace(log_dir=str(folder / "logs"))
        self.folder = RunFolder((folder / "logs/latest").resolve())
        self.path = self.folder.path
        self.key = log_key(folder / "logs/state/run_log.key")
        self.heads = heads_folder(self.config, 0) / f"{self.path.name}.jsonl"

    def rewrite(self, **changes: Any) -> None:
        """The whole chain anew, by the very key, with other facts."""
        log = check_log(self.folder.run_log)
        records = [json.loads(line) for line in self.folder.metrics.read_text().splitlines()]
        self.folder.run_log.unlink()
        self.folder.metrics.write_bytes(b"")
        anew = RunLog(RunFolder(self.path), self.key)
        anew.append_start({"time": log.entries[0]["time"]}, 0)
        for raw in records:
            record = replace(RoundRecord(**raw), **changes)
            anew.append_round(record, self.folder.append_record(record), log.rounds[0]["model_sha256"])


@pytest.fixture
def twice(finished: Config, tmp_path: Path) -> Twice:
    return Twice(finished, tmp_path)


def test_every_head_of_every_tenant_is_in_the_log(twice: Twice, capsys: pytest.CaptureFixture[str]) -> None:
    log = check_log(twice.folder.run_log)
    assert [entry["contributors"] for entry in log.rounds] == [["0", "1", "2"]] * 2
    assert log.entries[0]["versions"]["numpy"]
    for client in range(3):
        kept = read_heads(heads_folder(twice.config, client) / f"{twice.path.name}.jsonl")
        assert [head.entries for head in kept] == [1, 2, 3], "one before each round, and the last at the end"
        log.check_heads(kept)
    assert audit_log(["verify", str(twice.path), "--heads", str(twice.heads), "--head", log.sha256[1].hex()]) == 0
    said = capsys.readouterr().out
    assert f"head {log.sha256[1].hex()} is that of entry 2\n" in said
    assert said.endswith(f"head {log.sha256[-1].hex()}\n")


def test_a_rewritten_history_is_found_by_a_head_and_by_nothing_else(
    twice: Twice, capsys: pytest.CaptureFixture[str]
) -> None:
    last = read_heads(twice.heads)[-1].sha256.hex()
    twice.rewrite(contributor_ids=["0", "1"])
    assert audit_log(["verify", str(twice.path)]) == 0, "who has the key can write a chain that holds"
    for evidence in (["--head", last], ["--heads", str(twice.heads)]):
        assert audit_log(["verify", str(twice.path), *evidence]) == 1
        assert "written anew or cut off after the head was given out" in capsys.readouterr().err


def test_a_log_that_was_cut_off_is_found_by_a_head(twice: Twice, capsys: pytest.CaptureFixture[str]) -> None:
    last = read_heads(twice.heads)[-1].sha256.hex()
    lines = twice.folder.run_log.read_bytes().splitlines(keepends=True)
    twice.folder.run_log.write_bytes(b"".join(lines[:-1]))
    assert audit_log(["verify", str(twice.path)]) == 0
    assert "metrics.jsonl has the records of these rounds, and " in (said := capsys.readouterr().out)
    assert "bytes after them that the log does not cover" in said
    assert audit_log(["verify", str(twice.path), "--head", last]) == 1
    assert last in capsys.readouterr().err


def test_a_figure_that_was_changed_in_the_metrics_is_found(twice: Twice, capsys: pytest.CaptureFixture[str]) -> None:
    metrics = twice.folder.metrics
    lines = metrics.read_text().splitlines(keepends=True)
    better = json.loads(lines[1]) | {"roc_auc": 0.999}
    metrics.write_text(lines[0] + json.dumps(better) + "\n")
    assert audit_log(["verify", str(twice.path)]) == 1
    assert "metrics.jsonl, line 2: not the record that was logged" in capsys.readouterr().err


def test_another_signer_is_found(twice: Twice, capsys: pytest.CaptureFixture[str]) -> None:
    signer = twice.key.public_key().public_bytes_raw().hex()
    twice.key = Ed25519PrivateKey.generate()
    twice.rewrite()
    assert audit_log(["verify", str(twice.path)]) == 0
    assert audit_log(["verify", str(twice.path), "--signer", signer]) == 1
    assert f"its signature is not that of the key {signer}" in capsys.readouterr().err
    assert audit_log(["verify", str(twice.path), "--heads", str(twice.heads)]) == 1


def test_a_mistyped_head_is_a_wrong_setting(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert audit_log(["verify", str(tmp_path), "--head", "AB12"]) == 2
    assert "expected 64 lower-case hex digits" in capsys.readouterr().err


def head_of(key: Ed25519PrivateKey, entries: int, sha256: bytes = bytes(32)) -> dict[str, Any]:
    return dict(Head.sign(NAME, entries, sha256, key).values())


def test_a_tenant_refuses_a_log_that_goes_back(key: Ed25519PrivateKey, tmp_path: Path) -> None:
    config = small(tmp_path)
    heads = LogHeads(config, 1, LOG)
    heads.take(NAME, head_of(key, 5))
    heads.take(NAME, head_of(key, 5))
    heads.take(NAME, head_of(key, 7, b"\1" * 32))
    again = LogHeads(config, 1, LOG)  # its next process
    for values, why in (
        (head_of(key, 6), "was written anew"),
        (head_of(key, 7, b"\2" * 32), "was written anew"),
        (head_of(Ed25519PrivateKey.generate(), 8), "another key"),
        ({}, "no head of its run log any more"),
        (head_of(key, 8) | {"log_entries": 9}, "no valid signature"),
        (head_of(key, 8) | {"log_sha256": b"short"}, "no valid signature"),
        (head_of(key, 8) | {"log_signature": "text"}, "malformed"),
    ):
        for one in (heads, again):
            with pytest.raises(RunLogError, match=why):
                one.take(NAME, values)
    kept = read_heads(heads_folder(config, 1) / f"{NAME}.jsonl")
    assert [head.entries for head in kept] == [5, 7]
    again.take(NAME, head_of(key, 8))


def test_half_a_head_is_cut_off_and_a_damaged_file_is_refused(key: Ed25519PrivateKey, tmp_path: Path) -> None:
    config = small(tmp_path)
    LogHeads(config, 0, LOG).take(NAME, head_of(key, 1))
    path = heads_folder(config, 0) / f"{NAME}.jsonl"
    whole = path.read_bytes()
    path.write_bytes(whole + whole[:50])
    LogHeads(config, 0, LOG).take(NAME, head_of(key, 2))
    assert [head.entries for head in read_heads(path)] == [1, 2]
    two = path.read_bytes()
    heads = LogHeads(config, 0, LOG)
    with no_file_beyond(len(two) + 50), pytest.raises(RunLogError, match="can't be written"):
        heads.take(NAME, head_of(key, 3))
    assert path.read_bytes() == two
    heads.take(NAME, head_of(key, 3))
    path.write_bytes(b"{}\n" + whole)
    with pytest.raises(RunLogError, match="expected a head"):
        LogHeads(config, 0, LOG).take(NAME, head_of(key, 3))


def test_a_server_that_keeps_no_log_is_told_of_once(
    key: Ed25519PrivateKey, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    heads = LogHeads(small(tmp_path), 0, LOG)
    for _ in range(3):
        heads.take(NAME, {})
    assert [record.getMessage() for record in caplog.records] == [
        "the server gives no head of its run log: it could write its history anew"
    ]


def test_a_masked_tenant_says_why_it_refuses(tmp_path: Path) -> None:
    config = masked_settings(
        tmp_path, 3, **{k: v for k, v in SMALL.items() if k not in ("he_key_length", "allow_insecure_key")}
    )
    tapped = {name: Tapped(tenant) for name, tenant in make_tenants(config).items()}
    run = open_in_memory(config.replace(num_rounds=1), tapped)
    run.coordinator.run()
    run.close()
    tapped["0"].alter = without_head
    resumed = open_in_memory(config.replace(num_rounds=2, min_fit_clients=2), tapped, resume="latest")
    resumed.coordinator.run()
    resumed.close()
    (answer,) = tapped["0"].answers(Kind.TRAIN)[-1:]
    assert answer == Refusal("RunLogError")
    (record,) = resumed.coordinator.records[1:]
    assert record.skipped is not None, "masks take all three"
    assert (
        record.failed["0"] == "RunLogError: the server's run log does not go on from the head that it was given before"
    )


def without_head(request: Request) -> Request:
    if request.kind is not Kind.TRAIN:
        return request
    return replace(request, values={name: v for name, v in request.values.items() if not name.startswith("log_")})


def test_a_resumed_run_goes_on_with_its_chain(tmp_path: Path) -> None:
    config = small(tmp_path, num_rounds=1)
    for rounds in (1, 3):
        run = open_in_memory(
            config.replace(num_rounds=rounds), make_tenants(config), resume="latest" if rounds > 1 else None
        )
        run.coordinator.run()
        run.close()
    log = check_log(run.folder.run_log)
    assert [entry["kind"] for entry in log.entries] == ["start", "round", "start", "round", "round"]
    assert [entry["round"] for entry in log.rounds] == [1, 2, 3]
    log.check_records(run.folder.metrics)
    log.check_heads(read_heads(heads_folder(config, 2) / f"{run.folder.name}.jsonl"))


def killed_before_the_checkpoint(folder: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Config, RunFolder]:
    """A run whose server was killed in round 2, when the round's line and entry were written, and no checkpoint."""
    config = small(folder)
    run = open_in_memory(config, make_tenants(config))
    run.coordinator.prepare()
    calls = iter((False, True))

    def save_or_die(path: Path, checkpoint: Checkpoint) -> None:
        if next(calls):
            raise KeyboardInterrupt
        save_checkpoint(path, checkpoint)

    with monkeypatch.context() as patch:
        patch.setattr("orchestrator.coordinator.save_checkpoint", save_or_die)
        with pytest.raises(KeyboardInterrupt):
            run.coordinator.run()
    run.close()
    return config, run.folder


def test_a_round_that_was_not_finished_is_there_twice_and_counts_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config, folder = killed_before_the_checkpoint(tmp_path, monkeypatch)
    assert len(check_log(folder.run_log).rounds) == 2
    run = open_in_memory(config, make_tenants(config), resume="latest")
    run.coordinator.run()
    run.close()
    log = check_log(folder.run_log)
    kinds = [(entry["kind"], entry.get("round", entry.get("finished"))) for entry in log.entries]
    assert kinds == [("start", 0), ("round", 1), ("round", 2), ("start", 1), ("round", 2)]
    log.check_records(folder.metrics)


@pytest.mark.parametrize(
    ("damage", "why"),
    [
        (lambda data: data.replace(b'"skipped":null', b'"skipped":"no"', 1), "its signature is not that"),
        (lambda data: data[: data[:-1].rfind(b"\n") + 1], "ends with round 1, and the checkpoint is of round 2"),
        (lambda data: b"", "empty"),
        (None, "No such file"),
    ],
    ids=["changed", "an entry short", "empty", "missing"],
)
def test_a_run_with_a_damaged_chain_is_not_resumed(twice: Twice, damage: Any, why: str) -> None:
    path = twice.folder.run_log
    if damage is None:
        path.unlink()
    else:
        path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(ResumeError, match=f"{why}.*from one backup, or start a new run"):
        open_in_memory(twice.config.replace(num_rounds=3), {}, resume="latest")


def test_half_an_entry_is_cut_off_when_the_run_goes_on(twice: Twice) -> None:
    path = twice.folder.run_log
    whole = path.read_bytes()
    path.write_bytes(whole + whole[:70])
    with pytest.raises(RunLogError, match="entry 4: half a line"):
        check_log(path)
    open_in_memory(twice.config.replace(num_rounds=3), make_tenants(twice.config), resume="latest").close()
    assert path.read_bytes().startswith(whole)
    assert len(check_log(path).entries) == 4


def test_the_log_key_is_made_once_and_encrypted_under_a_passphrase(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "state/run_log.key"
    monkeypatch.setenv("ORCHESTRATOR_KEY_PASSPHRASE", "a long passphrase of a test")
    made = log_key(path)
    assert path.stat().st_mode & 0o077 == 0
    assert made.private_bytes_raw().hex() not in path.read_text()
    assert log_key(path).private_bytes_raw() == made.private_bytes_raw()
    path.write_bytes(b"{}")
    with pytest.raises(KeyMaterialError):
        log_key(path)
