"""The audit of sums: every tenant verifies an honest run, and finds each lie of an orchestrator by its name."""

import json
import logging
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from benchmarks.liars import FOUND, VICTIM, Lie, LyingPublisher
from client import auditing, audits
from client.audit import main as audit_command
from client.auditing import Accepted, AuditError, Fault, Place, verify
from client.audits import audit_folder
from orchestrator.publishing import Verdicts
from orchestrator.report.privacy import of_audits
from orchestrator.run import OpenRun
from shared.config import Config
from shared.data_utils import load_schema
from shared.enrolment import Enrolment
from shared.errors import ConfigError
from shared.exchange import Kind, Refusal, Request
from shared.he_utils import public_scheme
from shared.sum_proof import open_proof, proof_name
from tests.federations import make_tenants, masked_settings, open_in_memory
from tests.full_disks import no_file_beyond
from tests.processes import ROOT

LOSE_1 = (Kind.TRAIN, "1", 2)  # what is asked, of whom, in which round


def settings(folder: Path, **more: Any) -> Config:
    return masked_settings(
        folder, 4, **{
            "num_rounds": 2, "num_features": 4, "num_hidden_units": 3, "num_samples_per_client": 60, "local_epochs": 1,
            "min_available_clients": 4, "min_fit_clients": 3, "min_evaluate_clients": 3, "fraction_evaluate": 0.0,
            "audit": True, **more,
        },
    )  # fmt: skip


def verdicts(run: OpenRun[Any]) -> list[dict[str, Any]]:
    path = run.folder.verdicts
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()] if path.exists() else []


@pytest.mark.parametrize(
    "more",
    [
        pytest.param({"server_momentum": 0.5}, id="momentum"),
        pytest.param({"he_scheme": "kahe", "weighting": "examples"}, id="kahe and weights"),
        pytest.param({"he_packing": False}, id="one value per ciphertext"),
    ],
)
def test_an_honest_run_is_verified_by_every_tenant(tmp_path: Path, more: dict[str, Any]) -> None:
    config = settings(tmp_path, num_rounds=3, **more)

    def lost(node: str, request: Request) -> bool:
        return (request.kind, node, request.values.get("round")) == LOSE_1

    run = open_in_memory(config, make_tenants(config), lost=lost)
    run.coordinator.run()
    found = verdicts(run)
    assert [(v["round"], v["verified"], v["failed"]) for v in found] == [
        (n, ["0", "1", "2", "3"], {}) for n in (1, 2, 3)
    ]
    assert [len(r.contributor_ids) for r in run.coordinator.records] == [4, 3, 4], "one dropped out after its upload"
    for client in range(4):
        for number in (1, 2, 3):
            copy = audit_folder(config, f"client-{client}") / run.folder.name / proof_name(number)
            assert copy.read_bytes() == (run.folder.audit / proof_name(number)).read_bytes()


def test_a_forest_is_verified_over_a_level_that_came_to_no_sum(tmp_path: Path) -> None:
    config = settings(
        tmp_path, num_rounds=3, model="forest", forest_trees=4, forest_parallel=2, forest_depth=3, forest_bins=8,
        num_samples_per_client=300, num_features=6,
    )  # fmt: skip

    def lost(node: str, request: Request) -> bool:
        return (request.kind, node, request.values.get("round")) == LOSE_1

    run = open_in_memory(config, make_tenants(config), lost=lost)
    run.coordinator.run()
    assert [record.skipped is None for record in run.coordinator.records] == [True, False, True]
    assert [(v["round"], v["verified"], v["failed"]) for v in verdicts(run)] == [
        (n, ["0", "1", "2", "3"], {}) for n in (1, 3)
    ]


def lie_to(config: Config, lie: Lie) -> OpenRun[Any]:
    run = open_in_memory(config, make_tenants(config))
    run.coordinator._publisher = LyingPublisher(run, lie)
    run.coordinator.run()
    return run


@pytest.mark.parametrize("lie", list(Lie))
def test_each_lie_is_found_by_its_name(tmp_path: Path, caplog: pytest.LogCaptureFixture, lie: Lie) -> None:
    with caplog.at_level(logging.ERROR):
        run = lie_to(settings(tmp_path), lie)
    said = f"audit: {FOUND[lie]}"
    if lie in (Lie.GO_ON, Lie.SILENCE):
        assert [v["failed"] for v in verdicts(run)] == ([{}] if lie is Lie.GO_ON else [])
    else:
        (first,) = verdicts(run)
        assert first["verified"] == []
        assert sorted(first["failed"]) == ["0", "1", "2", "3"]
        assert all(why.startswith(said) for why in first["failed"].values())
    second = run.coordinator.records[1]
    assert second.skipped is not None, "nobody goes on in a run whose sums are false"
    assert all(why.startswith(said) for why in second.failed.values())
    if lie in (Lie.DROP, Lie.LEAVE_OUT, Lie.DOUBLE, Lie.ADD_TWICE, Lie.ALTER):
        found = [r.getMessage() for r in caplog.records if r.name == "client.0" and FOUND[lie] in r.getMessage()]
        assert f"client-{VICTIM}" in found[0], "it names whose contribution it is about"


def accept_all(*_arguments: Any, **_keywords: Any) -> None:
    return None


# A tenant without one check, and the lie that it then believes.
CARELESS: dict[Lie, Callable[[pytest.MonkeyPatch], None]] = {
    Lie.DECRYPT: lambda patch: patch.setattr(auditing, "imbalance", lambda *_: SimpleNamespace(none=True)),
    Lie.ALTER: lambda patch: patch.setattr(Enrolment, "verify", accept_all),
    Lie.GO_ON: lambda patch: patch.setattr(audits.Audits, "check_start", accept_all),
    Lie.STEP: lambda patch: patch.setattr(
        auditing._Checked, "check_model", lambda checked, _: (Place(checked._proof.after, ""),) * 2
    ),
    Lie.SILENCE: lambda patch: patch.setattr(audits.Audits, "check_start", accept_all),
}


@pytest.mark.parametrize("lie", list(CARELESS))
def test_a_tenant_without_the_check_believes_the_lie(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, lie: Lie) -> None:
    CARELESS[lie](monkeypatch)
    config = settings(tmp_path)
    if lie in (Lie.GO_ON, Lie.SILENCE):
        config = config.replace(num_rounds=2)
        run = lie_to(config, lie)
        assert run.coordinator.records[1].skipped is None
    else:
        run = lie_to(config.replace(num_rounds=1), lie)
        assert verdicts(run)[0]["verified"] == ["0", "1", "2", "3"]


def test_a_tenant_that_was_away_asks_for_what_it_missed(tmp_path: Path) -> None:
    config = settings(tmp_path, num_rounds=4, server_momentum=0.5)
    away = {"now": False}

    def lost(node: str, request: Request) -> bool:
        return away["now"] and node == "3"

    tenants = make_tenants(config)
    run = open_in_memory(config, tenants, lost=lambda node, request: lost(node, request))
    deaf = tenants["3"].answer

    def hears(request: Request) -> Any:
        return deaf(request) if not away["now"] else deaf(Request(Kind.DISMISS, {"reason": "away"}))

    tenants["3"].answer = hears  # type: ignore[method-assign]
    commit = run.coordinator.commit

    def count() -> None:
        commit()
        away["now"] = len(run.coordinator.records) in (2, 3)

    run.coordinator.commit = count  # type: ignore[method-assign]
    run.coordinator.run()
    by_round = {number: [v for v in verdicts(run) if v["round"] == number] for number in (1, 2, 3, 4)}
    assert [by_round[1][0]["verified"], by_round[2][0]["verified"]] == [["0", "1", "2", "3"], ["0", "1", "2"]]
    late = [v["round"] for v in verdicts(run) if v["verified"] == ["3"]]
    assert late[-2:] == [2, 3] or late == [2, 3, 4], "the ones it missed, in their order"
    assert "3" in [t for v in by_round[4] for t in v["verified"]]


def test_a_restarted_server_shows_the_last_proof_again_and_the_chain_goes_on(tmp_path: Path) -> None:
    config = settings(tmp_path, server_momentum=0.5)
    tenants = make_tenants(config)
    first = open_in_memory(config, tenants)
    first.coordinator.run()
    first.close()
    run = open_in_memory(config.replace(num_rounds=3), tenants, resume=first.folder.name)
    run.coordinator.run()
    assert [v["round"] for v in verdicts(run)] == [1, 2, 2, 3]
    assert all(v["verified"] == ["0", "1", "2", "3"] for v in verdicts(run))


def test_tenants_that_do_not_audit_are_sent_one_piece_and_say_so(tmp_path: Path) -> None:
    config = settings(tmp_path)
    tenants = make_tenants(config)
    tenants["2"]._audits = None  # what `audit: false` makes of it
    run = open_in_memory(config, tenants)
    run.coordinator.run()
    assert [(v["verified"], v["off"]) for v in verdicts(run)] == [(["0", "1", "3"], ["2"])] * 2


def test_an_auditing_tenant_goes_on_with_no_server_that_proves_nothing(tmp_path: Path) -> None:
    config = settings(tmp_path)
    run = open_in_memory(config.replace(audit=False), make_tenants(config))
    run.coordinator.run()
    assert run.coordinator.records[0].skipped is None
    assert set(run.coordinator.records[1].failed.values()) == {"audit: false model: the sum does not lead to the model"}


def test_it_needs_masks(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="harmless where it is masked alone"):
        settings(tmp_path, secure_aggregation="none")


class Honest:
    """A proof of an honest round, to be damaged."""

    def __init__(self, folder: Path) -> None:
        self.config = settings(folder, num_rounds=1)
        self.run = open_in_memory(self.config, make_tenants(self.config))
        self.run.coordinator.run()
        self.path = self.run.folder.audit / proof_name(1)

    def verify(self, path: Path | None = None, config: Config | None = None) -> auditing.Verified:
        own = config or self.config
        enrolled = Enrolment.load(own.enrolled_clients)
        return verify(
            path or self.path,
            own,
            enrolled,
            Accepted(lambda key, most: public_scheme(own, key, most), load_schema(own)),
        )


@pytest.fixture(scope="module")
def honest(tmp_path_factory: pytest.TempPathFactory) -> Honest:
    return Honest(tmp_path_factory.mktemp("honest"))


def test_anybody_enrolled_can_check_the_file(honest: Honest) -> None:
    assert honest.verify().contributors == [f"client-{number}" for number in range(4)]


def test_no_changed_byte_passes(honest: Honest, tmp_path: Path) -> None:
    """Every kind of place: a stride that is prime to all lengths, and the bytes at both ends."""
    whole = honest.path.read_bytes()
    places = [*range(0, len(whole), 97), len(whole) - 1]
    for place in places:
        damaged = bytearray(whole)
        damaged[place] ^= 1
        (tmp_path / "damaged.proof").write_bytes(damaged)
        # The name of the run, and a nonce's case in base64, may be the only things that nothing else depends on.
        try:
            found = honest.verify(tmp_path / "damaged.proof")
        except AuditError:
            continue
        except Exception as error:
            pytest.fail(f"byte {place}: {type(error).__name__}: {error}")
        assert found.proof.run != honest.run.folder.name or found.proof == honest.verify().proof, place


@pytest.mark.parametrize("cut", [0, 1, 11, 12, 100, 1000, -1, -100])
def test_a_cut_file_is_no_proof(honest: Honest, tmp_path: Path, cut: int) -> None:
    (tmp_path / "cut.proof").write_bytes(honest.path.read_bytes()[:cut])
    with pytest.raises(AuditError) as caught:
        honest.verify(tmp_path / "cut.proof")
    assert caught.value.fault is Fault.FORM


def test_a_longer_file_is_no_proof(honest: Honest, tmp_path: Path) -> None:
    (tmp_path / "long.proof").write_bytes(honest.path.read_bytes() + b"\0")
    with pytest.raises(AuditError, match="goes on behind"):
        honest.verify(tmp_path / "long.proof")


def test_another_tenant_s_settings_lead_to_another_model(honest: Honest) -> None:
    honest.verify(config=honest.config.replace(server_momentum=0.9))  # at the first step it is of no account
    with pytest.raises(AuditError) as caught:
        honest.verify(config=honest.config.replace(learning_rate=0.5))
    assert caught.value.fault is Fault.MODEL


def test_a_proof_is_read_once_and_in_order(honest: Honest) -> None:
    with open_proof(honest.path) as (proof, contributions):
        assert [c.client for c in contributions] == [f"client-{number}" for number in range(proof.contributions)]
        with pytest.raises(StopIteration):
            next(contributions)


@pytest.mark.parametrize(
    "piece",
    [
        {"offset": 1, "total": 10, "content": b"x"},
        {"offset": 0, "total": 1 << 40, "content": b"x"},
        {"offset": 0, "total": 1, "content": b"xx"},
        {"offset": 0, "total": 1, "content": b""},
        {"offset": "0", "total": 1, "content": b"x"},
        {"offset": -1, "total": 1, "content": b"x"},
        {"offset": 0, "content": b"x"},
        {"offset": 0, "total": 1},
        {"offset": 0, "total": 1, "content": b"x", "round": "../1"},
    ],
)
def test_pieces_out_of_order_are_refused(tmp_path: Path, piece: dict[str, Any]) -> None:
    config = settings(tmp_path)
    tenant = make_tenants(config)["0"]
    tenant.answer(Request(Kind.GREET, {"run": "20260101-000000-abcdef", "session": "ab" * 16, "nonce": bytes(32)}))
    answer = tenant.answer(Request(Kind.AUDIT, {"round": 1, "previous": 0, **piece}))
    assert answer.reason in ("audit: no proof", "RoundRefusedError")  # type: ignore[union-attr]


def test_a_full_disk_is_told_in_one_line(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    tenant = make_tenants(settings(tmp_path))["0"]
    tenant.answer(Request(Kind.GREET, {"run": "20260101-000000-abcdef", "session": "ab" * 16, "nonce": bytes(32)}))
    piece: dict[str, Any] = {"round": 1, "previous": 0, "offset": 0, "total": 2000, "content": b"x" * 1000}
    with no_file_beyond(10):
        answer = tenant.answer(Request(Kind.AUDIT, piece))
    assert isinstance(answer, Refusal)
    record = caplog.records[-1]
    assert record.exc_info is None
    assert re.search(r"File too large: '.*round-0001\.proof\.arriving'; make room", record.getMessage())
    assert not isinstance(tenant.answer(Request(Kind.AUDIT, piece)), Refusal), "there is room again"


def test_the_memory_of_an_audit_is_refused_where_it_is_damaged(tmp_path: Path) -> None:
    config = settings(tmp_path)
    known = audit_folder(config, "client-0") / "20260101-000000-abcdef" / "known.json"
    known.parent.mkdir(parents=True)
    for text in ("", "{}", '{"model": 1}', "[" * 99):
        known.write_text(text, encoding="utf-8")
        with pytest.raises(AuditError, match="restore it, or delete it"):
            audits.Audits(config, "client-0", logging.getLogger("x")).check_start("20260101-000000-abcdef", [], 1)


def test_the_command_checks_what_a_tenant_was_shown(
    honest: Honest, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "c.yaml").write_text(honest.config.as_yaml(), encoding="utf-8")
    settings = ["--config", str(tmp_path / "c.yaml")]
    all_four = "client-0, client-1, client-2, client-3"
    end = subprocess.run(
        [sys.executable, "client/audit.py", *settings, "--round", "1"],
        cwd=ROOT, capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert end.returncode == 0, end.stdout + end.stderr
    assert all_four in " ".join(end.stdout.split())
    for code, said, *how in (
        (0, all_four, "--round", "1", "--run", honest.run.folder.name),
        (0, all_four, "--proof", str(honest.path)),
        (1, "no proof of round 7 of any run", "--round", "7"),
        (1, "no proof:", "--proof", str(ROOT / "README.md")),
    ):
        assert audit_command([*settings, *how]) == code
        assert said in " ".join(capsys.readouterr().out.split())


@pytest.mark.parametrize(
    ("verdicts", "said"),
    [
        ([Verdicts(1, ["0", "1"]), Verdicts(2, ["0", "1"])], "each of 2 sums was verified by 2 of 2 clients"),
        ([Verdicts(1, ["0"], {"1": "lost"}), Verdicts(1, ["1"])], "the one sum that was shown was verified by 2 of 2"),
        ([Verdicts(1, ["0"], {"1": "audit: x"})], "round 1 was NOT verified by client 1: audit: x"),
        ([Verdicts(1, [], {}, ["0"])], "nobody, as no client audits"),
    ],
)
def test_the_report_says_who_verified(verdicts: list[Verdicts], said: str) -> None:
    assert said in of_audits(verdicts)
