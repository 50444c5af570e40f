"""Sigma rules for records of several services: each record is asked about by the rules for its own.

A table says how rules call its service and its fields, which are seldom the names that the service writes.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from shared.config import Config
from shared.data_sources.audit_table import AuditTable, tables_of
from shared.errors import OrchestratorError
from shared.rules import folder as rule_folder
from shared.rules.rule import Record, Rule, Rules, RuleSet


@dataclass(frozen=True, eq=False)
class ServiceRules:
    """The rules of one folder for some services.

    Attributes:
        tables: of all services, in the order in which a record is told by them, each with its rules if it has any.
        cloudtrail: for records that fit none of them.
    """

    tables: tuple[tuple[AuditTable, RuleSet | None], ...]
    cloudtrail: RuleSet

    def hits(self, record: Record) -> tuple[Rule, ...]:
        """The rules for the record's service whose condition it meets."""
        for table, rules in self.tables:
            if table.fits(record):
                return rules.hits(table.sigma.view(dict(record))) if rules and table.sigma else ()
        return self.cloudtrail.hits(record)


def load_rules(config: Config, folder: Path) -> Rules:
    """The rules of a folder for the records of `data_source`.

    Raises:
        ConfigError: no rules are written for such records.
        OrchestratorError: a file can't be read or holds what is no Sigma rule, or no rule is for any of them.
    """
    if config.data_source != "audit":
        return rule_folder.load_rules(folder, config.data_source)
    tables = tables_of(config.audit_map)
    found = ServiceRules(
        tuple((table, _rules_of(table, folder)) for table in tables),
        rule_folder.rules_for(folder, *rule_folder.LOG_SOURCES["cloudtrail"]),
    )
    _check(folder, found.tables, found.cloudtrail)
    return found


def _rules_of(table: AuditTable, folder: Path) -> RuleSet | None:
    if table.sigma is None:
        return None
    return rule_folder.rules_for(folder, table.sigma.product, table.sigma.service, table.sigma.category)


def _check(folder: Path, tables: Sequence[tuple[AuditTable, RuleSet | None]], cloudtrail: RuleSet) -> None:
    if not cloudtrail.rules and not any(rules and rules.rules for _, rules in tables):
        names = ", ".join(table.name for table, _ in tables if table.sigma)
        raise OrchestratorError(
            f"rules_path {folder}: no rule that can be evaluated for cloudtrail, {names}; expected at least one"
        )
