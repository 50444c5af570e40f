"""Orchestrators that ask for more than one tenant's policy allows, for `make peek` and the tests.

They write the common YAML file, so they ask by its settings, and have it name a policy of theirs, without rules. The
tenants are unaltered. One starts as a tenant with a policy does: `--set tenant_policy=FILE`, a file of its own.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any

import yaml

from client.launch import load_identity
from client.tenant import Tenant
from orchestrator.pki import identity_settings, provision
from orchestrator.run import open_run
from orchestrator.transport import MemoryTransport
from shared.config import Config, load_config, parse_config
from shared.data_utils import load_client_data

TENANTS = 5
OWNER = "4"  # of the policy
POLICY: dict[str, Any] = {
    "least_cohort": 4, "masked_required": True, "local_epochs": 2, "model_parameters": 500, "audit_required": True,
    "run_log_required": True, "rounds_a_day": 1,
}  # fmt: skip
# What the policy allows, to the last epoch and tenant; of one round.
ALLOWED: dict[str, Any] = {
    "num_clients": TENANTS, "min_available_clients": TENANTS, "min_fit_clients": 4, "min_contributors": 4,
    "local_epochs": 2, "num_rounds": 1, "num_samples_per_client": 200, "fraction_evaluate": 0.0,
    "he_key_length": 2048, "audit": True,
}  # fmt: skip


class Demand(StrEnum):
    """What is more than the policy allows."""

    EPOCHS = "epochs"
    COHORT = "cohort"
    UNMASKED = "unmasked"
    MODEL = "model"
    UNPROVEN = "unproven"
    FORGET = "forget"  # the last, when the one round that the policy allows for a day is answered


TITLES = {
    Demand.EPOCHS: "it asks for 20 epochs a round",
    Demand.COHORT: "it asks for sums of 3 tenants",
    Demand.UNMASKED: "it asks for updates without masks",
    Demand.MODEL: "it asks for a model with two layers of 100 units",
    Demand.UNPROVEN: "it asks for sums that it does not prove",
    Demand.FORGET: "it names another log_dir, in which no round of today is remembered",
}
ASKED: dict[Demand, dict[str, Any]] = {
    Demand.EPOCHS: {"local_epochs": 20},
    Demand.COHORT: {"min_contributors": 3, "min_fit_clients": 3},
    Demand.UNMASKED: {"secure_aggregation": "none", "audit": False},
    Demand.MODEL: {"num_hidden_units": [100, 100]},
    Demand.UNPROVEN: {"audit": False},
    Demand.FORGET: {},
}
AGAINST = {
    Demand.EPOCHS: "local_epochs", Demand.COHORT: "least_cohort", Demand.UNMASKED: "masked_required",
    Demand.MODEL: "model_parameters", Demand.UNPROVEN: "audit_required", Demand.FORGET: "rounds_a_day",
}  # fmt: skip


@dataclass(frozen=True)
class Outcome:
    """What came of one round.

    Attributes:
        words: of the tenant with the policy; empty if it said nothing against it.
        answered: rounds of training that it answered.
        contributors: whose updates are in the model.
    """

    words: str
    answered: int
    contributors: tuple[str, ...]

    def refused_by(self, rule: str) -> bool:
        """Whether the tenant sent nothing and named this rule, and all others went on."""
        named = f"policy: {rule}: " in self.words
        others = tuple(str(i) for i in range(TENANTS) if str(i) != OWNER)
        return named and not self.answered and self.contributors == others


def override_policy(folder: Path, say: Callable[[str], None]) -> bool:
    """Whether the policy stood against every demand, and against nothing that it allows.

    Args:
        folder: for the files of the runs.
        say: prints a line.

    Raises:
        OrchestratorError: a federation did not run.
    """
    say(
        f"\ntenant_policy: {len(Demand)} times the common file asks for more than the policy of client {OWNER} allows, "
        "and names another in its place, without rules:"
    )
    provision(folder / "pki", TENANTS, [])
    for name, rules in (("own", POLICY), ("theirs", {})):
        (folder / f"{name}.yaml").write_text(yaml.safe_dump(rules), encoding="utf-8")
        (folder / f"{name}.yaml").chmod(0o600)
    free = ask_for(folder, "allowed", {})
    kept = [OWNER in free.contributors]
    if not all(kept):
        say(f"    client {OWNER} REFUSES WHAT ITS POLICY ALLOWS: {free.words}")
    for number, demand in enumerate(Demand, start=1):
        say(f"\n{number:2}. {demand}: {TITLES[demand]}")
        outcome = ask_for(folder, demand, ASKED[demand])
        kept.append(outcome.refused_by(AGAINST[demand]))
        said = outcome.words if kept[-1] else f"OVERRIDDEN {outcome.words}".rstrip()
        say(f"    client {OWNER}: {said}")
        say(f"    clients {', '.join(outcome.contributors) or 'NONE'}: answered")
    return all(kept)


def ask_for(folder: Path, name: str, changes: Mapping[str, Any]) -> Outcome:
    """Run one round of a federation whose common file has these settings beside those that the policy allows.

    Args:
        folder: with the identities in `pki`, the tenant's policy `own.yaml` and the orchestrator's `theirs.yaml`.
        name: of the run's own `log_dir` and of the common file.
        changes: to `ALLOWED`.
    """
    settings = {"log_dir": str(folder / name), "tenant_policy": str(folder / "theirs.yaml")}
    config = parse_config({**ALLOWED, **changes, **settings, **identity_settings(folder / "pki")})
    common = folder / f"{name}-common.yaml"
    common.write_text(config.as_yaml(), encoding="utf-8")
    own = load_config(common, [f"tenant_policy={folder / 'own.yaml'}"])
    others = config.replace(tenant_policy="")  # each run is new to them
    tenants = {str(i): _tenant(own if str(i) == OWNER else others, i) for i in range(TENANTS)}
    run = open_run(config, lambda seats: MemoryTransport(seats, tenants))
    try:
        run.transport.connect()
        run.coordinator.run()
        record = run.coordinator.records[0]
        return Outcome(record.failed.get(OWNER, ""), tenants[OWNER].answered, tuple(record.contributor_ids or ()))
    finally:
        run.close()
        for tenant in tenants.values():
            tenant.close()


def _tenant(config: Config, number: int) -> Tenant:
    return Tenant(config, number, load_client_data(config, number), load_identity(config, number))
