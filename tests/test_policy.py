"""A tenant's policy: who may write it, what each rule refuses, and that the rest of a federation goes on."""

import contextlib
import json
import os
import subprocess
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, cast

import pytest

from client.policy import Policy
from client.policy_keeper import PolicyKeeper, Sum
from client.state import proof_folders, state_folder
from client.tenant import Tenant
from shared.config import Config, parse_config
from shared.data_utils import load_client_data
from shared.errors import ConfigError, PolicyError
from shared.exchange import Kind, Refusal, Request
from shared.identity import ClientIdentity
from shared.log_head import NAMES
from shared.refusals import SENTENCES, code_of
from tests.federations import Tapped, make_tenants, masked_settings, open_in_memory
from tests.full_disks import no_file_beyond

OTHER_KEY = "ab" * 32
PRIVATE: dict[str, Any] = {"privacy": "records", "dp_rows": 1000, "fraction_evaluate": 0.0}
TODAY = datetime.now(UTC).date().isoformat()
CONFIG = parse_config({"local_epochs": 3, "num_clients": 5})
SMALL: dict[str, Any] = {
    "num_rounds": 2, "num_features": 4, "num_hidden_units": (3,), "num_samples_per_client": 40, "local_epochs": 2,
    "min_available_clients": 4, "min_fit_clients": 3,
}  # fmt: skip


def keeper(folder: Path, config: Config = CONFIG, **rules: Any) -> PolicyKeeper:
    return PolicyKeeper(Policy(**rules), config, "client-2", 100, folder / "state")


def write(folder: Path, rules: dict[str, Any]) -> Path:
    path = folder / "policy-2.yaml"
    path.write_text(json.dumps(rules))  # which is YAML, too
    path.chmod(0o600)
    return path


# The rules

# rule -> what breaks it, what just keeps it, and of which sums it is
RULES: dict[str, tuple[Any, Any, Sum]] = {
    "least_cohort": (6, 5, Sum.STATISTICS),
    "masked_required": (True, False, Sum.TRAINING),
    "privacy_required": (True, False, Sum.STATISTICS),
    "dp_target_epsilon": (4.0, None, Sum.TRAINING),
    "dp_delta": (1e-6, None, Sum.EVALUATION),
    "audit_required": (True, False, Sum.TRAINING),
    "local_epochs": (2, 3, Sum.TRAINING),
    "model_parameters": (99, 100, Sum.EVALUATION),
    "rounds_a_day": (0, 1, Sum.TRAINING),
    "statistics": (False, True, Sum.STATISTICS),
    "evaluation": (False, True, Sum.EVALUATION),
    "privacy_budget": (0, 1, Sum.STATISTICS),
}


@pytest.mark.parametrize("rule", RULES)
def test_a_rule_refuses_at_its_bound_and_is_named(tmp_path: Path, rule: str) -> None:
    breaking, keeping, kind = RULES[rule]
    keeper(tmp_path, **{rule: keeping}).check(kind, 5)
    with pytest.raises(PolicyError, match=f"the rule {rule} of this tenant's policy is against") as caught:
        keeper(tmp_path, **{rule: breaking}).check(kind, 5)
    assert code_of(caught.value) == f"policy: {rule}"


def test_every_rule_has_a_code_that_a_masked_tenant_may_say() -> None:
    rules = set(Policy.model_fields) - {"state_dir"}
    assert {f"policy: {rule}" for rule in rules} == {c for c in SENTENCES if c.startswith("policy: ")}
    assert set(RULES) | {"pinned_key_fingerprint", "run_log_required"} == rules, "each rule is tried"


def test_a_key_is_pinned(tmp_path: Path) -> None:
    keeper(tmp_path).check_key(OTHER_KEY)
    keeper(tmp_path, pinned_key_fingerprint=OTHER_KEY).check_key(OTHER_KEY)
    with pytest.raises(PolicyError, match="pinned_key_fingerprint"):
        keeper(tmp_path, pinned_key_fingerprint=OTHER_KEY).check_key("cd" * 32)


@pytest.mark.parametrize(("rule", "most", "more"), [("dp_target_epsilon", 4.0, 4.5), ("dp_delta", 1e-6, 2e-6)])
def test_noise_is_as_much_as_the_policy_asks(tmp_path: Path, rule: str, most: float, more: float) -> None:
    """The common file sets both; without noise there is no epsilon at all, which is more than any."""
    private = masked_settings(tmp_path, 5, **PRIVATE)
    bound: dict[str, Any] = {rule: most}
    keeper(tmp_path, private.replace(**bound), **bound, privacy_required=True).check(Sum.TRAINING, 5)
    for kind in Sum:
        with pytest.raises(PolicyError, match=f"the rule {rule} .* is against {more:g}; it allows {most:g}"):
            keeper(tmp_path, private.replace(**{rule: more}), **bound).check(kind, 5)
        with pytest.raises(PolicyError, match=f"the rule {rule} .* without noise"):
            keeper(tmp_path, **bound).check(kind, 5)


def test_an_audited_run_is_one_that_audit_required_takes(tmp_path: Path) -> None:
    keeper(tmp_path, masked_settings(tmp_path, 5, audit=True), audit_required=True).check(Sum.TRAINING, 5)


def test_rules_of_training_leave_other_sums_alone(tmp_path: Path) -> None:
    strict = keeper(tmp_path, local_epochs=1, rounds_a_day=0)
    strict.check(Sum.EVALUATION, 5)
    strict.check(Sum.STATISTICS, 5)


def test_without_a_file_nothing_is_refused_and_nothing_written(tmp_path: Path) -> None:
    free = PolicyKeeper.of(CONFIG.replace(log_dir=str(tmp_path)), 2, 10**9)
    for kind in Sum:
        free.check(kind, 1)
        free.count(kind)
    assert list(tmp_path.iterdir()) == []


# What is counted


def test_the_budget_is_for_ever_and_the_rounds_are_for_a_day(tmp_path: Path) -> None:
    state = tmp_path / "state"
    state.mkdir(mode=0o700)
    earlier = [{"day": "2026-01-01", "sum": "training"}] * 3
    (state / "client-2-policy.jsonl").write_text("".join(json.dumps(line) + "\n" for line in earlier))
    daily = keeper(tmp_path, rounds_a_day=2)
    for _ in range(2):
        keeper(tmp_path, rounds_a_day=2).count(Sum.TRAINING)  # each a new process of the tenant
    with pytest.raises(PolicyError, match="rounds_a_day"):
        daily.count(Sum.TRAINING)
    daily.count(Sum.EVALUATION)
    ever = keeper(tmp_path, privacy_budget=7)
    ever.count(Sum.STATISTICS)
    for kind in Sum:
        with pytest.raises(PolicyError, match="privacy_budget"):
            ever.count(kind)
        with pytest.raises(PolicyError, match="privacy_budget"):
            ever.check(kind, 5)
    lines = (state / "client-2-policy.jsonl").read_text().splitlines()
    assert len(lines) == 7
    assert json.loads(lines[-1]) == {"day": TODAY, "sum": "statistics"}


def test_what_can_not_be_counted_is_not_answered(tmp_path: Path) -> None:
    """Else whoever spoils the file would have a budget without end."""
    state = tmp_path / "state"
    state.mkdir(mode=0o700)
    path = state / "client-2-policy.jsonl"
    for data in ("[]\n", "{}\n", "no JSON\n"):
        path.write_text(data)
        with pytest.raises(PolicyError, match="can't be counted"):
            keeper(tmp_path, privacy_budget=5).count(Sum.TRAINING)
    path.unlink()
    path.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(PolicyError, match="can't be counted"):
        keeper(tmp_path, rounds_a_day=5).count(Sum.TRAINING)
    assert not (tmp_path / "elsewhere").exists()


def test_a_count_that_a_full_disk_takes_in_part_is_none(tmp_path: Path) -> None:
    """Half a line would be dropped with the next start, and the answer that it counts would be free."""
    first = keeper(tmp_path, privacy_budget=3)
    first.count(Sum.TRAINING)
    path = tmp_path / "state" / "client-2-policy.jsonl"
    whole = path.read_bytes()
    with no_file_beyond(len(whole) + 10), pytest.raises(PolicyError, match="can't be counted"):
        first.count(Sum.TRAINING)
    assert path.read_bytes() == whole
    first.count(Sum.TRAINING)
    keeper(tmp_path, privacy_budget=3).count(Sum.TRAINING)
    with pytest.raises(PolicyError, match="privacy_budget"):
        keeper(tmp_path, privacy_budget=3).count(Sum.TRAINING)


# Where it is remembered


def test_what_is_remembered_outlives_another_log_dir(tmp_path: Path) -> None:
    """`log_dir` is the consortium's to write: counts, ledger, budget, heads and rosters lie where the tenant says."""
    folder = tmp_path / "own"
    folder.mkdir()
    common = masked_settings(tmp_path, 5, **(SMALL | {"num_rounds": 1}))
    for run, expected in (("1", True), ("2", False)):
        config = common.replace(log_dir=str(tmp_path / run))
        tenants = with_own_policy(config, folder, {"rounds_a_day": 1})
        with contextlib.closing(open_in_memory(config, tenants)) as opened:
            opened.coordinator.run()
        assert ("2" in (opened.coordinator.records[0].contributor_ids or [])) is expected
        assert [path.name for path in (tmp_path / run / "state").glob("client-2*") if path.stat().st_size] == []
        cast(Tenant, tenants["2"].tenant).close()
    kept = {path.name for path in (folder / "state").iterdir()}
    assert kept == {"client-2.jsonl", "client-2-policy.jsonl", "client-2-run_log", "rosters.jsonl"}


@pytest.mark.parametrize(("given", "expected"), [("", "policy/state"), ("memory", "policy/memory"), ("/m", "/m")])
def test_the_policy_says_where(tmp_path: Path, given: str, expected: str) -> None:
    (tmp_path / "policy").mkdir()
    config = CONFIG.replace(tenant_policy=str(write(tmp_path / "policy", {"state_dir": given})), log_dir=str(tmp_path))
    assert state_folder(config, 2) == tmp_path / expected
    assert state_folder(CONFIG.replace(log_dir=str(tmp_path)), 2) == tmp_path / "state", "without a policy"


def test_what_was_remembered_in_log_dir_is_not_lost_silently(tmp_path: Path) -> None:
    """The command that the refusal names takes it over."""
    folder, state = tmp_path / "my policy", tmp_path / "logs" / "state"
    folder.mkdir()
    (state / "client-2-audit").mkdir(parents=True)
    for name in ("client-2-policy.jsonl", "client-2-budget.json", "rosters.jsonl", "client-21.jsonl"):
        (state / name).write_text("{}\n")
    (state / "client-2.jsonl").touch()  # nothing is in it
    config = CONFIG.replace(tenant_policy=str(write(folder, {})), log_dir=str(tmp_path / "logs"))
    words = r"client-2-policy\.jsonl, client-2-budget\.json, client-2-audit; stop"
    with pytest.raises(ConfigError, match=words) as caught:
        state_folder(config, 2)
    subprocess.run(["/bin/sh", "-c", str(caught.value).partition("run: ")[2]], check=True)
    assert state_folder(config, 2) == folder / "state"
    moved = {"client-2-policy.jsonl", "client-2-budget.json", "client-2-audit", "rosters.jsonl"}
    assert {path.name for path in (folder / "state").iterdir()} == moved
    assert {path.name for path in state.iterdir()} == {"client-2.jsonl", "client-21.jsonl", "rosters.jsonl"}


def test_proofs_are_found_beside_each_policy_of_the_machine(tmp_path: Path) -> None:
    for number in (1, 2):
        folder = tmp_path / f"[{number}]"
        (folder / "state" / f"client-{number}-audit" / "a run").mkdir(parents=True)
        write(folder, {}).rename(folder / "policy.yaml")
    config = CONFIG.replace(tenant_policy=f"{tmp_path}/[{{client_id}}]/policy.yaml", log_dir=str(tmp_path / "logs"))
    assert [folder.parent.name for folder in proof_folders(config)] == ["client-1-audit", "client-2-audit"]


# The file


def test_a_file_is_read(tmp_path: Path) -> None:
    rules: dict[str, Any] = {"least_cohort": 5, "masked_required": True, "statistics": False, "privacy_budget": 10}
    assert Policy.load(write(tmp_path, rules)) == Policy(**rules)
    (tmp_path / "policy-2.yaml").write_text("# no rules\n")
    assert Policy.load(tmp_path / "policy-2.yaml") == Policy()
    for left in ("", "\n"):  # by a full disk, or a copy that broke off
        (tmp_path / "policy-2.yaml").write_text(left)
        with pytest.raises(ConfigError, match="empty; write the rules again"):
            Policy.load(tmp_path / "policy-2.yaml")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("least_cohorts: 5", "least_cohorts"),
        ("least_cohort: 1", "least_cohort"),
        ("least_cohort: '5'", "least_cohort"),
        ("local_epochs: -1", "local_epochs"),
        ("dp_target_epsilon: 0", "dp_target_epsilon"),
        ("dp_target_epsilon: .inf", "dp_target_epsilon"),
        ("dp_delta: '1e-6'", "dp_delta"),
        ("privacy_required: records", "privacy_required"),
        ("masked_required: 1", "masked_required"),
        ("pinned_key_fingerprint: abc", "pinned_key_fingerprint"),
        ("- a", "expected the rules"),
        ("a: [", "expected rules such as"),
        ("least_cohort: 5\nleast_cohort: 2", "least_cohort"),
    ],
)
def test_a_malformed_file_is_refused_in_one_line(tmp_path: Path, text: str, words: str) -> None:
    """A rule that is misspelt must not be a rule that is not there."""
    path = write(tmp_path, {})
    path.write_text(text)
    with pytest.raises(ConfigError, match=words) as caught:
        Policy.load(path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("mode", [0o620, 0o602, 0o666])
def test_a_file_that_others_may_write_is_refused(tmp_path: Path, mode: int) -> None:
    path = write(tmp_path, {})
    path.chmod(mode)
    with pytest.raises(ConfigError, match=rf"mode {mode:04o} lets other users loosen it; run: chmod go-w"):
        Policy.load(path)


def test_a_missing_file_a_folder_and_a_pipe_are_refused(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe", 0o600)
    for path in (tmp_path / "none", tmp_path, tmp_path / "pipe"):
        with pytest.raises(ConfigError, match="tenant_policy"):
            Policy.load(path)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a file to another user")
@pytest.mark.parametrize("owner", ["file", "link"])
def test_another_users_file_or_link_is_refused(tmp_path: Path, owner: str) -> None:
    path, link = write(tmp_path, {}), tmp_path / "link"
    link.symlink_to(path)
    Policy.load(link)
    os.chown(path if owner == "file" else link, 1234, -1, follow_symlinks=False)
    with pytest.raises(ConfigError, match=r"another user \(id 1234\), who could loosen it"):
        Policy.load(link)


# In a run


def with_policy(folder: Path, rules: dict[str, Any], **settings: Any) -> tuple[Config, dict[str, Tapped]]:
    """Five masked tenants, of which tenant 2 has this policy."""
    config = masked_settings(folder, 5, **(SMALL | settings))
    return config, with_own_policy(config, folder, rules)


def with_own_policy(config: Config, folder: Path, rules: dict[str, Any]) -> dict[str, Tapped]:
    """All tenants of these settings, of which tenant 2 has this policy."""
    tenants = make_tenants(config)
    tenants["2"].close()
    own = config.replace(tenant_policy=str(write(folder, rules)))
    identity = None
    if own.client_identity:
        identity = ClientIdentity.load(own.client_identity.replace("{client_id}", "2"), "client-2")
    tenants["2"] = Tenant(own, 2, load_client_data(own, 2), identity)
    return {name: Tapped(tenant) for name, tenant in tenants.items()}


@pytest.mark.parametrize(
    ("rules", "code"),
    [
        ({"least_cohort": 4}, "policy: least_cohort"),
        ({"local_epochs": 1}, "policy: local_epochs"),
        ({"model_parameters": 10}, "policy: model_parameters"),
        ({"pinned_key_fingerprint": OTHER_KEY}, "policy: pinned_key_fingerprint"),
        ({"rounds_a_day": 0}, "policy: rounds_a_day"),
        ({"privacy_budget": 0}, "policy: privacy_budget"),
        ({"privacy_required": True}, "policy: privacy_required"),
        ({"dp_target_epsilon": 4.0}, "policy: dp_target_epsilon"),
        ({"audit_required": True}, "policy: audit_required"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_a_tenant_whose_policy_refuses_stays_out_and_the_rest_go_on(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, rules: dict[str, Any], code: str
) -> None:
    config, tenants = with_policy(tmp_path, rules)
    with contextlib.closing(open_in_memory(config, tenants)) as run:
        run.coordinator.run()
    assert [record.contributor_ids for record in run.coordinator.records] == [["0", "1", "3", "4"]] * 2
    assert f"client 2 is left out: at advertise: {code}: {SENTENCES[code]}" in caplog.text
    said = {answer.reason for _, answer in tenants["2"].said if isinstance(answer, Refusal)}
    assert code in said
    assert tenants["2"].answers(Kind.TRAIN) == [], "it is out before a sum has begun, and costs the others no shares"


def test_a_policy_against_statistics_or_evaluations_lets_the_tenant_train(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    config, tenants = with_policy(tmp_path, {"statistics": False, "evaluation": False})
    with contextlib.closing(open_in_memory(config, tenants)) as run:
        run.coordinator.run()
    everybody = ["0", "1", "2", "3", "4"]
    assert [record.contributor_ids for record in run.coordinator.records] == [everybody] * 2
    held_out = sum(len(load_client_data(config, i).holdout) for i in (0, 1, 3, 4))
    assert [record.client_rows for record in run.coordinator.records] == [held_out] * 2
    for rule in ("statistics", "evaluation"):
        assert SENTENCES[f"policy: {rule}"] in caplog.text


def test_a_budget_ends_in_the_middle_of_a_run(tmp_path: Path) -> None:
    """Two sums of statistics at most, one of training and one of evaluation, and no more, whatever is asked."""
    config, tenants = with_policy(tmp_path, {"rounds_a_day": 1}, num_rounds=3)
    with contextlib.closing(open_in_memory(config, tenants)) as run:
        run.coordinator.run()
    ids = [record.contributor_ids for record in run.coordinator.records]
    assert ["2" in one for one in ids] == [True, False, False]
    assert [len(one) for one in ids] == [5, 4, 4]


@pytest.mark.parametrize("given", [True, False])
def test_a_tenant_trains_by_the_head_of_the_run_log_where_its_policy_asks_for_one(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, given: bool
) -> None:
    config, tenants = with_policy(tmp_path, {"run_log_required": True}, num_rounds=1)

    def without_head(request: Request) -> Request:
        return replace(request, values={name: value for name, value in request.values.items() if name not in NAMES})

    if not given:
        tenants["2"].alter = without_head
    with contextlib.closing(open_in_memory(config, tenants)) as run:
        run.coordinator.run()
    ids = run.coordinator.records[0].contributor_ids or []
    assert ids == ["0", "1", *(["2"] if given else []), "3", "4"]
    assert (SENTENCES["policy: run_log_required"] in caplog.text) is not given


def test_an_unmasked_tenant_that_wants_masks_sends_nothing(tmp_path: Path) -> None:
    config, tenants = with_policy(
        tmp_path, {"masked_required": True}, secure_aggregation="none", num_rounds=1, he_key_length=512
    )
    with contextlib.closing(open_in_memory(config, tenants)) as run:
        run.coordinator.run()
    assert run.coordinator.records[0].contributor_ids == ["0", "1", "3", "4"]
    asked = (Kind.TRAIN, Kind.STATISTICS, Kind.EVALUATE)
    answers = [answer for kind in asked for answer in tenants["2"].answers(kind)]
    assert answers
    assert all(isinstance(answer, Refusal) and "masked_required" in answer.reason for answer in answers[:1])
    assert all(isinstance(answer, Refusal) for answer in answers)


def test_with_the_rule_taken_out_the_tenant_takes_part(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The broken twin: it is the policy that keeps it out, and nothing else."""
    monkeypatch.setattr(PolicyKeeper, "check", lambda *_arguments: None)
    config, tenants = with_policy(tmp_path, {"least_cohort": 5, "local_epochs": 1}, num_rounds=1)
    with contextlib.closing(open_in_memory(config, tenants)) as run:
        run.coordinator.run()
    assert "2" in (run.coordinator.records[0].contributor_ids or [])


def test_a_cohort_as_large_as_the_policy_asks_is_joined(tmp_path: Path) -> None:
    """The server promises it in the round's terms (`min_contributors`), which every stage of a masked sum keeps."""
    changes = {"min_contributors": 4, "min_fit_clients": 4, "num_rounds": 1}
    config, tenants = with_policy(tmp_path, {"least_cohort": 4}, **changes)
    with contextlib.closing(open_in_memory(config, tenants)) as run:
        run.coordinator.run()
    assert run.coordinator.records[0].contributor_ids == ["0", "1", "2", "3", "4"]
