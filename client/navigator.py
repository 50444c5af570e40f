"""What was seen as a layer of the ATT&CK Navigator: a technique for each of the rules' tags and of the findings' types.

The format is 4.5: https://github.com/mitre-attack/attack-navigator/blob/master/layers/spec/v4.5/layerformat.md. A layer
holds techniques alone; tactics without one have no place in it, and are named in its description.
"""

import json
import re
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from shared.atomic import replace_file
from shared.findings.finding import Finding

LAYER_FORMAT, ATTACK_MAJOR, NAVIGATOR = "4.5", "16", "5.1.0"
_TECHNIQUE = re.compile(r"T\d{4}(\.\d{3})?")
_GUARDDUTY = re.compile(r"([A-Za-z]+):([A-Za-z0-9]+)[/-](.+)$")
# Techniques of types of findings that name none themselves: the first that a type begins with, in any case. After the
# descriptions of GuardDuty's types and the techniques of ATT&CK 16 that say the same.
_TYPES = (
    ("recon:ec2/port", "T1046"),
    ("recon:ec2/", "T1046"),
    ("recon:iamuser/", "T1580"),
    ("discovery:iamuser/", "T1580"),
    ("discovery:s3/", "T1619"),
    ("discovery:", "T1526"),
    ("stealth:iamuser/cloudtraillogging", "T1562.008"),
    ("stealth:s3/serveraccesslogging", "T1562.008"),
    ("stealth:iamuser/passwordpolicychange", "T1556"),
    ("defenseevasion:", "T1562"),
    ("unauthorizedaccess:ec2/sshbruteforce", "T1110"),
    ("unauthorizedaccess:ec2/rdpbruteforce", "T1110"),
    ("unauthorizedaccess:iamuser/instancecredentialexfiltration", "T1552.005"),
    ("unauthorizedaccess:iamuser/consolelogin", "T1078.004"),
    ("unauthorizedaccess:iamuser/", "T1078.004"),
    ("initialaccess:", "T1078.004"),
    ("credentialaccess:", "T1552"),
    ("persistence:", "T1098"),
    ("privilegeescalation:", "T1098"),
    ("exfiltration:s3/", "T1530"),
    ("exfiltration:", "T1537"),
    ("impact:s3/", "T1485"),
    ("impact:", "T1496"),
    ("cryptocurrency:", "T1496"),
    ("backdoor:ec2/c&cactivity", "T1071"),
    ("backdoor:ec2/denialofservice", "T1498"),
    ("trojan:ec2/dnsdataexfiltration", "T1048"),
    ("trojan:ec2/", "T1071"),
    ("pentest:iamuser/", "T1078.004"),
)


def techniques_of(finding: Finding) -> tuple[str, ...]:
    """The techniques that a finding names, or that its type is about; none where neither says."""
    if finding.techniques:
        return finding.techniques
    # Security Hub has a category before the type, and may part it by a hyphen: TTPs/Initial Access/Recon:EC2-Portscan
    found = _GUARDDUTY.search(finding.kind)
    kind = f"{found[1]}:{found[2]}/{found[3]}".casefold() if found else ""
    return next(((technique,) for begin, technique in _TYPES if kind.startswith(begin)), ())


class Coverage:
    """Counts techniques: of alerts' rules, and of findings."""

    def __init__(self) -> None:
        self.alerts: Counter[str] = Counter()
        self.findings: Counter[str] = Counter()
        self.tactics: Counter[str] = Counter()

    def add_alerts(self, findings: Iterable[dict[str, Any]]) -> None:
        """Alerts, as `client/alerts.py` makes them."""
        for finding in findings:
            attacks = finding["finding_info"].get("attacks", [])
            named = {(a.get("sub_technique") or a["technique"])["uid"] for a in attacks if "technique" in a}
            self.alerts.update(uid for uid in named if _TECHNIQUE.fullmatch(uid))
            self.tactics.update({a["tactic"]["name"] for a in attacks if "tactic" in a})

    def add_findings(self, findings: Iterable[Finding]) -> int:
        """Findings of other detectors that are not marked as false; returns how many have no technique."""
        without = 0
        for finding in findings:
            if finding.attack:
                named = [uid for uid in techniques_of(finding) if _TECHNIQUE.fullmatch(uid)]
                self.findings.update(named)
                without += not named
        return without

    def layer(self, name: str) -> dict[str, Any]:
        """The layer, for JSON."""
        scores = {uid: self.alerts[uid] + self.findings[uid] for uid in sorted({*self.alerts, *self.findings})}
        tactics = ", ".join(f"{tactic} {number}" for tactic, number in self.tactics.most_common()) or "none"
        return {
            "name": name,
            "versions": {"attack": ATTACK_MAJOR, "navigator": NAVIGATOR, "layer": LAYER_FORMAT},
            "domain": "enterprise-attack",
            "description": f"Techniques of rules that alerts meet, and of findings. Alerts by tactic: {tactics}.",
            "sorting": 3,
            "layout": {"layout": "side", "showName": True, "expandedSubtechniques": "annotated"},
            "hideDisabled": False,
            "techniques": [
                {
                    "techniqueID": uid,
                    "score": score,
                    "enabled": True,
                    "comment": f"alerts: {self.alerts[uid]}, findings: {self.findings[uid]}",
                }
                for uid, score in scores.items()
            ],
            "gradient": {
                "colors": ["#d6e9f5", "#0067a5"],
                "minValue": 0,
                "maxValue": max(scores.values(), default=1),
            },
            "legendItems": [],
            "metadata": [],
            "links": [],
        }


def write_layer(layer: dict[str, Any], path: Path) -> None:
    """Write it, whole or not at all.

    Raises:
        OSError: it can't be written.
    """
    replace_file(path, json.dumps(layer, indent=1).encode() + b"\n")
