"""What an OCSF finding says of the Sigma rules that a window's records meet."""

from collections.abc import Collection, Iterable, Sequence
from typing import Any

from client.tactics import TACTIC_IDS
from shared.rules.rule import RuleHit

_RULE = (1, "Rule")  # of `analytic`
# OCSF's severity_id and severity, by a rule's level.
SEVERITIES = {
    "informational": (1, "Informational"),
    "low": (2, "Low"),
    "medium": (3, "Medium"),
    "high": (4, "High"),
    "critical": (5, "Critical"),
}


def analytic(hit: RuleHit) -> dict[str, Any]:
    """The rule as an OCSF analytic: what found something."""
    return {"name": hit.rule.title, "uid": hit.rule.uid, "type_id": _RULE[0], "type": _RULE[1]}


def attacks(hits: Iterable[RuleHit], known: Collection[str]) -> list[dict[str, Any]]:
    """The ATT&CK tactics and techniques of the rules' tags, each once, without the tactics that are known already.

    Tags don't say of which version of ATT&CK they are, so that none is given; nor is a tactic's id where it is in no
    version that this code knows.
    """
    found: dict[str, dict[str, Any]] = {}
    for hit in hits:
        for name in hit.rule.tactics:
            told = name.replace("-", " ").title()
            ids = {"uid": TACTIC_IDS[name]} if name in TACTIC_IDS else {}
            if told not in known:
                found.setdefault(name, {"tactic": {**ids, "name": told}})
        for uid in hit.rule.techniques:
            technique = {"technique": {"uid": uid.partition(".")[0]}}
            found.setdefault(uid, technique | ({"sub_technique": {"uid": uid}} if "." in uid else {}))
    return list(found.values())


def shown(hits: Iterable[RuleHit], raised: Collection[RuleHit]) -> list[dict[str, Any]]:
    """All hits for whoever reads the alert, as its own entry; those of `raised` make it an alert."""
    return [
        {
            "uid": hit.rule.uid,
            "title": hit.rule.title,
            "level": hit.rule.level,
            "tags": list(hit.rule.tags),
            "records": hit.records,
            "first_event_id": hit.first_event_id,
            "call": hit.call,
            "raised": hit in raised,
        }
        for hit in hits
    ]


def in_words(hits: Sequence[RuleHit]) -> str:
    """The rules by name, on one line."""
    names = ", ".join(f"{hit.rule.title} ({hit.rule.level})" for hit in hits)
    return f"{'rule' if len(hits) == 1 else 'rules'} {names}"
