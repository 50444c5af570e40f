"""The dishonest orchestrator opens what is open: each rule of the tenants is there for one of its attacks."""

import re
from pathlib import Path

import pytest

from benchmarks.liars import FOUND, Lie
from benchmarks.overriding import AGAINST, OWNER, Demand, override_policy
from client.policy import Policy
from client.policy_keeper import PolicyKeeper
from shared.config import Config
from tests.conftest import Start
from tests.processes import ROOT

pytestmark = pytest.mark.long

TWIN = (
    "import sys; from benchmarks.peek import main; "
    "sys.exit(main(['--only', sys.argv[2]], ['tests/careless_clients.py', sys.argv[1]]))"
)


@pytest.mark.timeout(400)
def test_an_update_is_open_without_masks_and_closed_with_them(start: Start) -> None:
    end = start("benchmarks/peek.py").finish(timeout=390)
    assert end.code == 0, end.output
    assert end.output.splitlines()[-1] == "peek: unmasked=opened masked=refused lies=found policy=kept"
    attacks, _, rest = end.output.partition("masked.")[2].partition("audit: true.")
    lies, _, demands = rest.partition("tenant_policy:")
    assert re.findall(r"clients 0, 1, 2, 3: audit: ([a-z ]+):", lies) == [FOUND[lie] for lie in Lie]
    assert re.findall(r"clients ([0-9, ]+): (?:at confirm: )?((?:masking|round): \w+ \w+|\w+)", attacks) == [
        ("0, 1, 2, 3", "masking: bad signature"),
        ("0, 1, 2, 3", "masking: both shares"),
        ("0, 1, 2", "round: other settings"),
        ("0, 1, 2", "masking: other task"),  # of the model
        ("0, 1, 2", "masking: other task"),  # of the evaluation
        ("0, 1, 2, 3", "answered"),
        ("0, 1, 2", "masking: other task"),  # of the scaler
        ("0, 1, 2", "masking: repeated work"),  # of the statistics
        ("0, 1, 2", "masking: repeated work"),  # of the session
        ("0, 1, 2", "masking: repeated work"),  # of the machines set back
    ]
    assert re.findall(r"client 4: (?:at advertise: )?policy: (\w+):", demands) == [AGAINST[demand] for demand in Demand]
    assert demands.count("clients 0, 1, 2, 3: answered") == len(Demand)
    shown = shown_in_privacy()
    assert shown[-1] == end.output.splitlines()[-1]
    assert f"```\n{shown[-1]}\n```" in (ROOT / "README.md").read_text(encoding="utf-8")
    assert is_shortened([without_figures(line) for line in shown], without_figures(end.output).splitlines())


def shown_in_privacy() -> list[str]:
    """The lines of the block that shows this command's output."""
    text = (ROOT / "docs/privacy.md").read_text(encoding="utf-8")
    (block,) = re.findall(r"^```\n(secure_aggregation: none\..+?)\n```$", text, re.M | re.S)
    return str(block).splitlines()


def without_figures(text: str) -> str:
    """Masks are new in each run, and other processors train to other last digits."""
    return re.sub(r"[+-]?\d+\.\d+", "#", text)


def is_shortened(shown: list[str], whole: list[str]) -> bool:
    """Whether `shown` is `whole` without the lines that an ellipsis stands for."""
    rest = iter(whole)
    for line in shown:
        if line.strip() == "…":
            continue
        if line not in rest:  # `in` goes on from the last line found, so the order counts, too
            return False
    return True


@pytest.mark.timeout(400)
@pytest.mark.parametrize(
    ("rule", "attacks"),
    [
        ("pair masks", "decrypt"),
        ("own mask", "false-loss"),
        ("one view", "split-view"),
        ("one share", "both-shares"),
        ("own settings", "settings"),
        ("one task", "model,evaluation,scaler"),
        ("no clear text", "evaluation"),
        ("zeros", "nan"),
        ("one set", "statistics,session"),
        ("a memory", "set-back"),
    ],
)
def test_with_one_rule_left_out_its_attacks_work_and_peek_says_so(start: Start, rule: str, attacks: str) -> None:
    end = start("-c", TWIN, rule, attacks).finish(timeout=390)
    assert end.code == 1, end.output
    assert end.output.splitlines()[-1] == "peek: unmasked=opened masked=opened"
    _, *sections = re.split(r"^ ?\d+\. ", end.output, flags=re.MULTILINE)
    assert len(sections) == len(attacks.split(","))
    for section in sections:
        assert re.search(r"OPENED|UNLIKE|BOTH KINDS", section), end.output


def test_without_its_policy_the_tenant_does_what_is_asked_and_peek_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The broken twin: it is the policy that refuses, and nothing else."""
    for step in ("check", "count"):
        monkeypatch.setattr(PolicyKeeper, step, lambda *_arguments: None)
    said: list[str] = []
    assert not override_policy(tmp_path, said.append)
    assert said.count(f"    client {OWNER}: OVERRIDDEN") == len(Demand)


def test_a_policy_that_the_common_file_could_exchange_would_be_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The other twin: a tenant that goes by the policy which the orchestrator names."""

    def of(config: Config, client_id: int, parameters: int) -> PolicyKeeper:
        theirs = tmp_path / "theirs.yaml"
        return PolicyKeeper(Policy.load(theirs), config, f"client-{client_id}", parameters, tmp_path / "state")

    monkeypatch.setattr(PolicyKeeper, "of", of)
    said: list[str] = []
    assert not override_policy(tmp_path, said.append)
    assert any("OVERRIDDEN" in line for line in said)


def test_a_memory_that_the_common_file_could_empty_would_be_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The third twin: a tenant that keeps its counts in `log_dir`, as one without a policy does."""
    monkeypatch.setattr("client.policy_keeper.state_folder", lambda config, _number: Path(config.log_dir) / "state")
    said: list[str] = []
    assert not override_policy(tmp_path, said.append)
    assert [line for line in said if "OVERRIDDEN" in line] == [f"    client {OWNER}: OVERRIDDEN"]
    assert "forget" in said[-3]
