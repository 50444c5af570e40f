"""The forms of findings, each read into a `Finding`.

| form | reference |
|---|---|
| GuardDuty: exported to S3, `get-findings`, EventBridge | GuardDuty user guide, "GuardDuty finding format" |
| AWS Security Finding Format (ASFF): `get-findings`, EventBridge | Security Hub user guide, "ASFF syntax" |
| OCSF Detection Finding, class 2004: Security Lake, others | schema.ocsf.io/classes/detection_finding |

The API of GuardDuty writes `Service` and the export `service`: keys are compared in lower case.
"""

import contextlib
import re
from collections.abc import Iterable, Iterator
from typing import Any

from shared.data_sources.cloudtrail_keys import is_blank
from shared.data_sources.json_values import json_within
from shared.data_sources.record_fields import seconds_of, text_of
from shared.findings.finding import Finding

Plain = dict[str, Any]
OWN_PRODUCT = "Autonomous Cloud Security Orchestrator"
DETECTION_FINDING = 2004
_MOST_LEVELS = 20
# What products call a purpose that has another name as an ATT&CK tactic.
_TACTIC = {
    "recon": "reconnaissance",
    "stealth": "defense-evasion",
    "data-exfiltration": "exfiltration",
    "crypto-currency": "cryptocurrency",
}
# OCSF's verdict_id: false positive, disregard, benign, test, duplicate.
_BENIGN_VERDICTS = frozenset({1, 3, 5, 6, 10})
_IP_ADDRESS, _USER_NAME = 2, 4  # OCSF's type_id of an observable


class LeftOutError(Exception):
    """What is read well and is no detection to learn from: its kind, for a person."""


def is_finding(value: Plain) -> bool:
    """Whether an object is one, of whatever form, and carries none."""
    keys = {key.casefold() for key in value}
    guardduty = {"type", "service", "resource"} <= keys
    return guardduty or {"productarn", "generatorid"} <= keys or "class_uid" in keys


def finding_of(value: Plain) -> Finding:
    """Read one.

    Raises:
        LeftOutError: it is of another kind than detections.
        ValueError, TypeError: it lacks an id, a type or a time, or they can't be read.
    """
    plain = _lower(value)
    if "class_uid" in plain:
        return _of_ocsf(plain)
    return _of_asff(plain) if "productarn" in plain else _of_guardduty(plain)


def family_of(purpose: str) -> str:
    """A product's word for the purpose, as Sigma writes tactics: `CredentialAccess` is `credential-access`."""
    words = re.sub(r"(?<=[a-z])(?=[A-Z])", "-", purpose.strip())
    name = re.sub(r"[^a-z0-9]+", "-", words.casefold()).strip("-")
    return _TACTIC.get(name, name) or "attack"


def _of_guardduty(f: Plain) -> Finding:
    service, resource = _dict(f.get("service")), _dict(f.get("resource"))
    if _is_sample(service):
        raise LeftOutError("sample findings of GuardDuty")
    if _is_informational(f.get("severity")):
        raise LeftOutError("findings of severity informational")
    kind = _text(f, "type")
    key, action = _dict(resource.get("accesskeydetails")), _dict(service.get("action"))
    start = _time(service.get("eventfirstseen") or f.get("createdat"))
    end = _time(service.get("eventlastseen") or service.get("eventfirstseen") or f.get("updatedat"))
    instance = _dict(resource.get("instancedetails"))
    own = set(_addresses(instance.get("networkinterfaces"), ("privateipaddress", "publicip", "ipv6addresses")))
    remote, local, inbound, apis = _action(action)
    return Finding(
        uid=_text(f, "id"),
        kind=kind,
        family=family_of(kind.partition(":")[0]),
        attack=str(service.get("userfeedback", "")).casefold() != "not_useful",
        start=start,
        end=max(start, end),
        account=text_of(f.get("accountid")),
        principals=_folded(key.get(name) for name in ("accesskeyid", "principalid", "username")),
        apis=apis,
        remote=remote,
        local=local or _folded(own),
        resources=_folded(
            [instance.get("instanceid"), *(b.get("name") for b in _dicts(resource.get("s3bucketdetails")))]
        ),
        inbound=inbound,
    )


def _is_sample(service: Plain) -> bool:
    more = _dict(service.get("additionalinfo"))
    told = more.get("value")
    if isinstance(told, str):  # the API has an object as a text
        with contextlib.suppress(ValueError, TypeError, RecursionError):
            more = {**more, **_lower(json_within(told))}
    return more.get("sample") in (True, "true")


def _of_asff(f: Plain) -> Finding:
    if f.get("sample") in (True, "true"):
        raise LeftOutError("sample findings of Security Hub")
    types = [kind for kind in f.get("types") or [] if isinstance(kind, str)]
    if "compliance" in f or (types and all(kind.startswith("Software and Configuration") for kind in types)):
        raise LeftOutError("checks of configurations, which are no detections")
    severity = _dict(f.get("severity"))
    if _is_informational(severity.get("label") or severity.get("normalized")):
        raise LeftOutError("findings of severity informational")
    if not types:
        raise ValueError("no Types, which say what it found")
    parts = types[0].split("/", 2)
    start = _time(f.get("firstobservedat") or f.get("createdat"))
    end = _time(f.get("lastobservedat") or f.get("firstobservedat") or f.get("updatedat"))
    network = _dict(f.get("network"))
    remote, local, inbound, apis = _action(_dict(f.get("action")))
    if network and not remote:
        inbound = {"IN": True, "OUT": False}.get(str(network.get("direction", "")).upper())
        ends = [
            _folded(network.get(name) for name in (f"{end}ipv4", f"{end}ipv6")) for end in ("source", "destination")
        ]
        remote, local = ends if inbound is not False else ends[::-1]
    principals: list[Any] = []
    resources: list[Any] = []
    own: list[Any] = []
    for part in _dicts(f.get("resources")):
        details = _dict(part.get("details"))
        key = _dict(details.get("awsiamaccesskey"))
        uid = str(part.get("id", ""))
        if str(part.get("type", "")).startswith("AwsIam"):
            principals += [uid.removeprefix("AWS::IAM::AccessKey:"), *_values(key, "accesskeyid", "principalid")]
            principals += _values(key, "principalname", "username")
        else:
            resources += [uid, uid.rpartition(":")[2], uid.rpartition("/")[2]]
        own += _addresses([_dict(details.get("awsec2instance"))], ("ipv4addresses", "ipv6addresses"))
    verification = str(f.get("verificationstate", "")).upper()
    workflow = str(_dict(f.get("workflow")).get("status", "")).upper()
    return Finding(
        uid=_text(f, "id"),
        kind=types[0],
        family=family_of((parts[1] if len(parts) > 1 else parts[0]).partition(":")[0]),
        attack=verification not in ("FALSE_POSITIVE", "BENIGN_POSITIVE") and workflow != "SUPPRESSED",
        start=start,
        end=max(start, end),
        account=text_of(f.get("awsaccountid")),
        principals=_folded(principals),
        apis=apis,
        remote=remote,
        local=local or _folded(own),
        resources=_folded(resources),
        inbound=inbound,
    )


def _action(action: Plain) -> tuple[frozenset[str], frozenset[str], bool | None, frozenset[str]]:
    """What GuardDuty and ASFF alike say of an action: the other side's addresses, one's own, who began, the call."""
    connection = _dict(action.get("networkconnectionaction"))
    call = _dict(action.get("awsapicallaction"))
    probes = _dicts(_dict(action.get("portprobeaction")).get("portprobedetails"))
    where = [part for part in (connection, call, *probes) if part]
    remote, local = (
        _folded(_dict(part.get(side)).get(name) for part in where for name in ("ipaddressv4", "ipaddressv6"))
        for side in ("remoteipdetails", "localipdetails")
    )
    direction = str(connection.get("connectiondirection", "")).upper()
    inbound = True if probes else {"INBOUND": True, "OUTBOUND": False}.get(direction)
    return remote, local, inbound, _folded([call.get("api")])


def _of_ocsf(f: Plain) -> Finding:
    if text_of(f.get("class_uid")) != str(DETECTION_FINDING):
        raise LeftOutError(f"OCSF records of class {f.get('class_uid')!r:.40}; detections are {DETECTION_FINDING}")
    if _dict(_dict(f.get("metadata")).get("product")).get("name") == OWN_PRODUCT:
        raise LeftOutError("this project's own alerts, from which a model would learn its own word: give verdicts")
    if f.get("severity_id") == 1:
        raise LeftOutError("findings of severity informational")
    info = _dict(f.get("finding_info"))
    start = _time(_first(f, info, "start_time", "first_seen_time", "time"))
    end = _time(_first(f, info, "end_time", "last_seen_time", "start_time", "first_seen_time", "time"))
    attacks = _dicts(info.get("attacks"))
    tactics = [_dict(a.get("tactic")).get("name") for a in attacks]
    tactics += [tactic.get("name") for a in attacks for tactic in _dicts(a.get("tactics"))]
    kinds = [kind for kind in info.get("types") or [] if isinstance(kind, str)]
    kind = kinds[0] if kinds else str(info.get("title", ""))
    evidences = _dicts(f.get("evidences"))
    actors = [_dict(e.get("actor")) for e in evidences] + [_dict(f.get("actor"))]
    users = [_dict(actor.get("user")) for actor in actors]
    seen = _dicts(f.get("observables"))
    ends = {end: [_dict(e.get(f"{end}_endpoint")) for e in evidences] for end in ("src", "dst")}
    remote, local = (_folded(end.get("ip") for end in ends[which]) for which in ("src", "dst"))
    return Finding(
        uid=_text(info, "uid"),
        kind=kind,
        family=family_of(next((str(tactic) for tactic in tactics if tactic), "") or kind.partition(":")[0]),
        attack=f.get("verdict_id") not in _BENIGN_VERDICTS and f.get("status_id") != 3,
        start=start,
        end=max(start, end),
        account=text_of(_dict(_dict(f.get("cloud")).get("account")).get("uid")),
        principals=_folded(
            [u.get(name) for u in users for name in ("name", "uid", "uid_alt", "credential_uid")]
            + [o.get("value") for o in seen if o.get("type_id") == _USER_NAME]
        ),
        apis=_folded(_dict(e.get("api")).get("operation") for e in evidences),
        remote=remote or _folded(o.get("value") for o in seen if o.get("type_id") == _IP_ADDRESS),
        local=local,
        resources=_folded(r.get(name) for r in _dicts(f.get("resources")) for name in ("uid", "name")),
        inbound=True if remote and local else None,
        techniques=tuple(_techniques(attacks)),
    )


def _techniques(attacks: Iterable[Plain]) -> Iterator[str]:
    for attack in attacks:
        sub, technique = _dict(attack.get("sub_technique")), _dict(attack.get("technique"))
        if isinstance(uid := sub.get("uid") or technique.get("uid"), str):
            yield uid


def _first(f: Plain, info: Plain, *names: str) -> Any:
    """The first of these times that the finding has, as a number or as a text."""
    for name in names:
        for part in (f, info):
            if part.get(name) is not None or part.get(f"{name}_dt") is not None:
                return part.get(name) if part.get(name) is not None else part.get(f"{name}_dt")
    return None


def _time(value: Any) -> float:
    """Seconds since 1970; a year 1 would make attacks of all that a principal ever did."""
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        raise ValueError("no time of what it found")
    return float(seconds_of(str(value)))


def _lower(value: Any, level: int = 0) -> Any:
    """The same with keys in lower case."""
    if level > _MOST_LEVELS:
        raise ValueError(f"nested deeper than {_MOST_LEVELS}")
    if isinstance(value, dict):
        return {str(key).casefold(): _lower(item, level + 1) for key, item in value.items()}
    return [_lower(item, level + 1) for item in value] if isinstance(value, list) else value


def _text(f: Plain, name: str) -> str:
    value = f.get(name)
    if not isinstance(value, str) or not value:
        raise ValueError(f"no {name}, which every finding has")
    return value


def _dict(value: Any) -> Plain:
    return value if isinstance(value, dict) else {}


def _dicts(value: Any) -> list[Plain]:
    return [item for item in value if isinstance(item, dict)] if isinstance(value, list) else []


def _values(part: Plain, *names: str) -> list[Any]:
    return [part.get(name) for name in names]


def _addresses(parts: Any, names: Iterable[str]) -> Iterator[str]:
    for part in _dicts(parts):
        for name in names:
            value = part.get(name)
            yield from (item for item in (value if isinstance(value, list) else [value]) if isinstance(item, str))


def _is_informational(severity: Any) -> bool:
    """Whether a severity, as a number or a word, is that of what is no detection."""
    text = text_of(severity)
    try:
        return float(text) < 1
    except ValueError:
        return text.casefold() == "informational"


def _folded(values: Iterable[Any]) -> frozenset[str]:
    return frozenset(value.strip().casefold() for value in values if isinstance(value, str) and not is_blank(value))
