"""Findings joined to log records: by time, account, principal, call and address, or by the pair of addresses of a flow.

A finding says what it is about in a few words, and a record matches if none of them is against it:

| of | a record matches where |
|---|---|
| both | its time is within the finding's, give or take `SLACK` seconds |
| CloudTrail | it is of the account, and of the principal, the call and the address, as far as the finding names them |
| flows | its ends are the finding's two sides, from whoever began; or one end is, where it names the other side alone |

How near each finding came is kept, so that one without a record says why.
"""

import logging
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from shared.data_sources.labels import BENIGN
from shared.findings.finding import Finding, FindingSet

_log = logging.getLogger("labels")
SLACK = 60  # seconds: products round times, and a flow's record is of its first packet
_NAMED = 3  # findings of each reason, as an example
# How near a finding came, from far to near; the last is a match.
NOTHING, NOBODY, ACCOUNT, TIME, CALL, ADDRESS, MATCHED = range(7)
_REASONS = {
    NOTHING: "name nothing that these records have",
    NOBODY: "name whom or what no record names",
    ACCOUNT: "are of another account",
    TIME: "are of another time than what their principals and addresses did here",
    CALL: "name a call that was not made then",
    ADDRESS: "name an address that it did not come from",
}


class FindingJoin:
    """Joins the findings of one tenant to its records; made anew for each reading of them.

    Attributes:
        stages: how near each finding came, (findings,).
        disagreements: records that a rule calls an attack and a finding a false positive.
    """

    def __init__(self, findings: FindingSet) -> None:
        self._findings = findings.findings
        self._left_out = sum(number for _, number in findings.left_out)
        nameless = [not (f.principals or f.remote or f.resources) for f in self._findings]
        self.stages = np.where(nameless, NOTHING, NOBODY)
        self.records = self.disagreements = 0
        self._by_name: dict[str, list[int]] = {}
        for index, finding in enumerate(self._findings):
            # The surest that it names; where it names a principal, an address alone is somebody else's.
            for name in finding.principals or finding.remote or finding.resources:
                self._by_name.setdefault(name, []).append(index)

    def of_record(self, record: dict[str, Any], row: dict[str, Any]) -> int:
        """The finding that one CloudTrail record matches, its position; -1 for none.

        Args:
            record: as it was read.
            row: what `cloudtrail_features.fields_of` makes of it.
        """
        address = str(row["address"]).casefold()
        names = {*_principals(record), address, *_resources(record)}
        found = -1
        for index in sorted({index for name in names for index in self._by_name.get(name, ())}):
            stage = self._stage(self._findings[index], row, address)
            self.stages[index] = max(self.stages[index], stage)
            if stage == MATCHED and (found < 0 or not self._findings[found].attack):
                found = index
        return found

    def _stage(self, finding: Finding, row: dict[str, Any], address: str) -> int:
        if finding.account and row["account"] and finding.account != row["account"]:
            return ACCOUNT
        if not finding.start - SLACK <= row["time"] <= finding.end + SLACK:
            return TIME
        if finding.apis and row["name"].casefold() not in finding.apis:
            return CALL
        return MATCHED if not finding.remote or address in finding.remote else ADDRESS

    def of_flows(self, flows: pd.DataFrame) -> NDArray[np.int64]:
        """The finding that each flow matches, its position; -1 for none, (flows,).

        Args:
            flows: `srcaddr`, `dstaddr`, and `start` and `end` in seconds since 1970.
        """
        result = np.full(len(flows), -1)
        named = {address for finding in self._findings for address in finding.remote}
        here = flows["srcaddr"].str.casefold().isin(named) | flows["dstaddr"].str.casefold().isin(named)
        flows = flows[here]  # of the others none can match, and they are nearly all
        found = np.full(len(flows), -1)
        source, destination = (flows[end].str.casefold() for end in ("srcaddr", "dstaddr"))
        for index, finding in enumerate(self._findings):
            if not finding.remote:
                self.stages[index] = NOTHING  # of one's own address alone: all of its flows would be the attack
                continue
            pairs = np.zeros(len(flows), dtype=np.bool_)
            ways = {True: (True,), False: (False,), None: (True, False)}[finding.inbound]
            for inbound in ways:
                theirs, ours = (source, destination) if inbound else (destination, source)
                way = theirs.isin(finding.remote)
                pairs |= (way & ours.isin(finding.local) if finding.local else way).to_numpy(dtype=np.bool_)
            meets = (flows["start"] <= finding.end + SLACK) & (flows["end"] >= finding.start - SLACK)
            matched = pairs & meets.to_numpy(dtype=np.bool_)
            stage = MATCHED if matched.any() else TIME if pairs.any() else NOBODY
            self.stages[index] = max(self.stages[index], stage)
            weaker = (found < 0) | ~self._attacks[found]
            found[matched & weaker] = index
        result[here.to_numpy(dtype=np.bool_)] = found
        return result

    @property
    def _attacks(self) -> NDArray[np.bool_]:
        return np.array([finding.attack for finding in self._findings] + [False])  # the last is that of -1

    def over(self, families: NDArray[Any], found: Iterable[int]) -> NDArray[Any]:
        """Labels by rules, (records,), with those of findings over them."""
        families = families.astype(object)
        for row, index in enumerate(found):
            if index < 0:
                continue
            finding = self._findings[index]
            self.records += finding.attack
            self.disagreements += not finding.attack and families[row] != BENIGN
            families[row] = finding.family if finding.attack else BENIGN
        return families

    def tell(self, path: Path) -> None:
        """What came of the findings, when all records were read."""
        matched = int((self.stages == MATCHED).sum())
        marked = sum(not finding.attack for finding in self._findings)
        _log.log(
            logging.INFO if matched else logging.WARNING,
            "%s: %d of %d findings match a record%s; %d records are attacks by them; figures say how well a model "
            "agrees with the findings, not how many attacks it finds", path, matched, len(self._findings),
            f" ({marked} are marked as false positives)" if marked else "", self.records,
        )  # fmt: skip
        for stage, number in sorted(Counter(self.stages.tolist()).items()):
            if stage != MATCHED:
                these = [self._findings[index].kind for index in np.flatnonzero(self.stages == stage)]
                named = ", ".join(kind for kind, _ in Counter(these).most_common(_NAMED))
                _log.warning("%s: %d findings without a record %s: %s", path, number, _REASONS[stage], named)
        if self.disagreements:
            _log.warning(
                "%s: of %d records a rule says attack and a finding is marked as false positive: they are benign",
                path, self.disagreements,
            )  # fmt: skip


def _principals(record: dict[str, Any]) -> list[str]:
    """What a CloudTrail record calls its principal, case-folded."""
    identity = record.get("userIdentity")
    identity = identity if isinstance(identity, dict) else {}
    session = identity.get("sessionContext")
    issuer = session.get("sessionIssuer") if isinstance(session, dict) else None
    issuer = issuer if isinstance(issuer, dict) else {}
    names = [identity.get(name) for name in ("accessKeyId", "principalId", "userName", "arn")]
    names += [issuer.get(name) for name in ("principalId", "userName", "arn")]
    texts = [name.casefold() for name in names if isinstance(name, str) and name]
    return [*texts, *(text.partition(":")[0] for text in texts if text.startswith("aroa"))]


def _resources(record: dict[str, Any]) -> list[str]:
    """What a CloudTrail record is about, case-folded."""
    parameters, resources = record.get("requestParameters"), record.get("resources")
    names = list(parameters.values()) if isinstance(parameters, dict) else []
    for part in resources if isinstance(resources, list) else []:
        names += [part.get("ARN"), part.get("arn")] if isinstance(part, dict) else []
    return [name.casefold() for name in names if isinstance(name, str) and 2 < len(name) < 300]
