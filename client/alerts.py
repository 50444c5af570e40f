"""An alert as an OCSF Detection Finding (class 2004, schema 1.5.0): what security lakes and SIEMs take in as it is.

The schema is at https://schema.ocsf.io; docs/scoring.md says what is in each field here.
"""

import hashlib
import importlib.metadata
import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from client import rule_findings
from client.explain import DENSITY, MODEL, Driver, natural
from client.tactics import ATTACK_VERSION, tactics_of
from client.titles import Headline, plain_name, short_principal
from shared.bundle import ModelBundle
from shared.config_checks import CALL_SOURCES
from shared.data_sources.schema import Features, FeatureSchema, buckets
from shared.feedback import PATTERN
from shared.findings.formats import OWN_PRODUCT
from shared.kinds import LIKELY
from shared.record_ids import record_id
from shared.rules.rule import ALERT_LEVEL, RuleHit

OCSF_VERSION = "1.5.0"
_INFORMATIONAL, _MEDIUM, _HIGH = (rule_findings.SEVERITIES[level] for level in ("informational", "medium", "high"))
_LEARNING = (4, "Learning (ML/DL)")  # of `analytic`
_IP_ADDRESS, _USER_NAME = (2, "IP Address"), (4, "User Name")  # of `observables`
_PRODUCT = {
    "name": OWN_PRODUCT,
    "vendor_name": OWN_PRODUCT,
    "version": importlib.metadata.version("cloud-security-orchestrator"),
}
# What CSV flow records call the two ends, in lower case, without blanks, dots and underscores.
_SOURCE_NAMES, _DESTINATION_NAMES = (
    ("srcip", "sourceip", "srcaddr", "saddr"),
    ("dstip", "destinationip", "dstaddr", "daddr"),
)
_SOURCE_PORTS, _DESTINATION_PORTS = (
    ("srcport", "sourceport", "sport"),
    ("dstport", "destinationport", "dport", "dsport"),
)
_PROTOCOLS = ("protocol", "proto", "protocoltype")
_PROTOCOL_NAMES = {"1": "icmp", "6": "tcp", "17": "udp", "58": "icmp6"}


class Findings:
    """Makes findings of what one model scores.

    Args:
        bundle: the model.
        threshold: above which a record alerts; None where records are ranked, so that none is an alert by its score.
        rule_level: from which a Sigma rule that it meets makes it an alert, whatever its score.
    """

    def __init__(self, bundle: ModelBundle, threshold: float | None, rule_level: str = ALERT_LEVEL) -> None:
        self._bundle = bundle
        self._kind = _rows_like(bundle.schema)
        self._threshold = threshold
        self._rule_level = rule_level
        self._model = {
            "run": bundle.run,
            "round": bundle.round,
            "schema_sha256": bundle.schema.hash(),
            "model_sha256": bundle.model_sha256,
        }

    @property
    def _analytic(self) -> dict[str, Any]:
        return {
            "name": "federated threat detector",
            "uid": self._bundle.run,
            "version": str(self._bundle.round),
            "type_id": _LEARNING[0],
            "type": _LEARNING[1],
        }

    def by_rules(self, hits: Sequence[RuleHit]) -> list[RuleHit]:
        """Those of a record's hits that make it an alert."""
        return [hit for hit in hits if hit.rule.at_least(self._rule_level)]

    def finding(
        self,
        source: Mapping[str, Any],
        raw: Features,
        score: float,
        drivers: Sequence[Driver],
        created: int,
        place: str = "",
        detector: str = MODEL,
        nearest: tuple[str, float] | None = None,
    ) -> dict[str, Any]:
        """One alert, or one record of a ranking.

        Args:
            source: where the record comes from: one row of what `stream_features` yields first.
            raw: its features before scaling, (features,).
            score: of the record.
            drivers: of the score, the largest first.
            created: now, in milliseconds since 1970.
            place: in the ranking, in words.
            detector: whose score it is, and whose drivers: `MODEL` or `DENSITY`.
            nearest: the kind of attack that its features are likest to, and how probable that is; None: unknown.
        """
        uid = record_id(self._bundle.schema, source, raw)
        source = {name: _plain(value) for name, value in source.items()}
        hits: list[RuleHit] = source.pop("rules") if self._kind == "cloudtrail" else []
        rare_calls = source.pop("rare_calls") if self._kind == "cloudtrail" else []
        by_model = self._threshold is not None and score > self._threshold
        by_rules = self.by_rules(hits)
        severity_id, severity = max(
            [self._severity(score) if by_model else _INFORMATIONAL]
            + [rule_findings.SEVERITIES[hit.rule.level] for hit in by_rules]
        )
        apis = source["apis"] if self._kind == "cloudtrail" else []
        scored = f"{'anomaly' if detector == DENSITY else 'attack'} score {score:.4f}"
        reasons = [f"above the threshold of {self._threshold:.4f}"] if by_model else []
        reasons += [rule_findings.in_words(by_rules)] if by_rules else []
        analytics = [self._analytic, *map(rule_findings.analytic, hits)]
        if by_rules and not by_model:
            analytics = analytics[1:]
        info: dict[str, Any] = {
            "uid": uid,
            "title": "",
            "types": ["Anomaly" if not apis else "Suspicious API activity"],
            "created_time": created,
            "analytic": analytics[0],
        }
        if analytics[1:]:
            info["related_analytics"] = analytics[1:]
        tactics = tactics_of(apis)
        attacks = [{"tactic": {"uid": uid, "name": name}, "version": ATTACK_VERSION} for uid, name in tactics]
        attacks += rule_findings.attacks(hits, {name for _, name in tactics})
        if attacks:
            info["attacks"] = attacks
        finding: dict[str, Any] = {
            "activity_id": 1,
            "activity_name": "Create",
            "category_uid": 2,
            "category_name": "Findings",
            "class_uid": 2004,
            "class_name": "Detection Finding",
            "type_uid": 200401,
            "type_name": "Detection Finding: Create",
            "time": created,
            "severity_id": severity_id,
            "severity": severity,
            "status_id": 1,
            "status": "New",
            "is_alert": bool(reasons),
            "message": "",
            "metadata": {
                "version": OCSF_VERSION,
                "product": _PRODUCT,
                "log_name": self._bundle.config.data_source,
                "uid": uid,
            },
            "finding_info": info,
            "evidences": _evidences(self._kind, source, tactics, _numbers(self._bundle.schema, raw)),
            "unmapped": {
                "raised_by": ["model"] * by_model + ["rules"] * bool(by_rules),
                "score": score,
                "scored_by": detector,
                "threshold": self._threshold,
                "kind": _kind(by_rules, tactics, nearest),
                "pattern": "",
                "model": self._model,
                "drivers": [_shown(driver, self._kind, source, self._bundle.schema.hash_width) for driver in drivers],
            },
        }
        if self._bundle.schema.window_minutes:
            info["first_seen_time"], info["last_seen_time"] = source["start"] * 1000, source["end"] * 1000
            finding["start_time"], finding["end_time"] = source["start"] * 1000, source["end"] * 1000
        if self._kind == "cloudtrail":
            finding["unmapped"] |= {"rules": rule_findings.shown(hits, by_rules), "rare_calls": rare_calls}
        if observables := _observables(self._kind, source):
            finding["observables"] = observables
        info["title"] = Headline.of(finding).text
        finding["message"] = f"{info['title']}: {scored}, {' and '.join(reasons) or place}"
        finding["unmapped"]["pattern"] = _pattern(finding, by_rules)
        return finding

    def _severity(self, score: float) -> tuple[int, str]:
        """High above all benign records that the threshold was chosen on, where those were enough to tell."""
        highest = self._bundle.threshold.highest_benign
        return _HIGH if highest is not None and score > highest else _MEDIUM


def _kind(
    by_rules: Sequence[RuleHit], tactics: Mapping[tuple[str, str], Any], nearest: tuple[str, float] | None
) -> dict[str, Any] | None:
    """The kind of attack, and what says so: a rule before a call that is known for it, that before the features."""
    for hit in by_rules:
        if hit.rule.tactics:
            return {"name": hit.rule.tactics[0], "by": "rules"}
    for _, name in tactics:
        return {"name": name.lower().replace(" ", "-"), "by": "calls"}
    if nearest is not None and nearest[1] >= LIKELY:
        return {"name": nearest[0], "by": "model", "probability": round(nearest[1], 4)}
    return None


def _pattern(finding: Mapping[str, Any], by_rules: Sequence[RuleHit]) -> str:
    """The id of alerts alike: of one principal or pair of ends, with the same rules or kind of attack; empty where a
    record names neither.
    """
    evidence = finding["evidences"][0]
    if "actor" in evidence:
        user = evidence["actor"]["user"]
        who = [short_principal(user["name"]), user.get("account")]
    else:
        who = [evidence.get("src_endpoint", {}).get("ip"), evidence.get("dst_endpoint")]
    if not any(who):
        return ""
    kind = finding["unmapped"]["kind"]
    what = sorted(hit.rule.uid for hit in by_rules) or (kind and kind["name"])
    text = json.dumps([finding["metadata"]["log_name"], who, what], sort_keys=True)
    return PATTERN + hashlib.sha256(text.encode()).hexdigest()[:32]


def _numbers(schema: FeatureSchema, raw: Features) -> dict[str, int]:
    """Ports and protocols that are features, and so in no text of the record."""
    wanted = {*_SOURCE_PORTS, *_DESTINATION_PORTS, *_PROTOCOLS}
    return {
        column.name: round(natural(column, float(value)))
        for column, value in zip(schema.columns, raw, strict=True)
        if column.kind == "numeric" and plain_name(column.name) in wanted
    }


def _rows_like(schema: FeatureSchema) -> str:
    """Whose rows these are like; never guessed by a table's names: a CSV file may call its columns as it likes."""
    if schema.source in CALL_SOURCES:
        return "vpc_flow" if "flows" in schema.names else "cloudtrail"
    return schema.source


def _evidences(
    kind: str,
    source: Mapping[str, Any],
    tactics: Mapping[tuple[str, str], list[str]],
    numbers: Mapping[str, int],
) -> list[dict[str, Any]]:
    evidence: dict[str, Any] = {"data": dict(source)}
    if kind == "cloudtrail":
        user = {"name": source["principal"], "account": {"uid": source["account"]}}
        evidence["actor"] = {"user": {key: value for key, value in user.items() if value != {"uid": ""}}}
        calls = [api for apis in tactics.values() for api in apis]
        told = [_call(api) for api in calls]
        return [evidence, *({"api": call} for call in told)]
    if ends := _ends(kind, {**numbers, **source}):
        evidence |= ends
        by_name = {plain_name(name): value for name, value in {**numbers, **source}.items()}
        protocol = str(next((by_name[name] for name in _PROTOCOLS if by_name.get(name)), ""))
        if protocol and kind != "vpc_flow":
            evidence["connection_info"] = {"protocol_name": _PROTOCOL_NAMES.get(protocol, protocol).casefold()}
    return [evidence]


def _call(api: str) -> dict[str, Any]:
    service, _, operation = api.rpartition(":")
    # A log names no version of the service; readers such as py-ocsf-models want the field all the same.
    return {"operation": operation, "service": {"name": service, "uid": service, "version": ""}}


def _ends(kind: str, source: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """`src_endpoint` and `dst_endpoint`, as far as the record names them."""
    if kind == "vpc_flow":
        return {"src_endpoint": {"ip": source["source"]}}
    by_name = {plain_name(name): value for name, value in source.items()}
    ends: dict[str, dict[str, Any]] = {}
    for end, addresses, ports in (
        ("src_endpoint", _SOURCE_NAMES, _SOURCE_PORTS),
        ("dst_endpoint", _DESTINATION_NAMES, _DESTINATION_PORTS),
    ):
        address = next((by_name[name] for name in addresses if by_name.get(name)), None)
        port = next((by_name[name] for name in ports if str(by_name.get(name, "")).isdecimal()), None)
        if address:
            ends[end] = {"ip": address} | ({"port": int(port)} if port is not None else {})
    return ends


def _observables(kind: str, source: Mapping[str, Any]) -> list[dict[str, Any]]:
    found = []
    if kind == "cloudtrail":
        found.append(("evidences[0].actor.user.name", _USER_NAME, source["principal"]))
        found += [("evidences[0].data.addresses", _IP_ADDRESS, address) for address in source["addresses"]]
    for end, endpoint in _ends(kind, source).items():
        found.append((f"evidences[0].{end}.ip", _IP_ADDRESS, endpoint["ip"]))
    return [{"name": name, "type_id": code, "type": what, "value": value} for name, (code, what), value in found]


def _shown(driver: Driver, kind: str, source: Mapping[str, Any], hash_width: int) -> dict[str, Any]:
    # A hashed column only knows a bucket; the record itself says which name fell into it.
    value = source[driver.name] if isinstance(driver.value, str) and driver.name in source else driver.value
    shown = {"feature": driver.name, "value": value, "contribution": driver.contribution}
    if kind == "cloudtrail" and driver.name.startswith("api#"):
        bucket = int(driver.name.removeprefix("api#"))
        of_api = buckets("api", pd.Series(source["apis"]), hash_width)
        shown["calls"] = [api for api, its in zip(source["apis"], of_api, strict=True) if its == bucket]
    return shown


def _plain(value: Any) -> Any:
    """As JSON has it: a NumPy scalar as Python's, a missing text as an empty one."""
    if isinstance(value, np.generic):
        value = value.item()
    return "" if value is None or value != value else value
