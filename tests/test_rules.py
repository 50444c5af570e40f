"""Sigma rules: what each modifier meets on a CloudTrail record, what is named as not evaluated, and what is refused."""

import logging
from pathlib import Path
from typing import Any

import pytest
import yaml

from shared.errors import ConfigError, OrchestratorError
from shared.rules.folder import load_rules
from shared.rules.rule import RuleSet, label_of

Record = dict[str, Any]
SOURCE = {"product": "aws", "service": "cloudtrail"}
RECORD: Record = {
    "eventName": "CreateAccessKey",
    "eventSource": "iam.amazonaws.com",
    "eventTime": "2024-05-01T10:00:00Z",
    "sourceIPAddress": "198.51.100.7",
    "userAgent": "S3 Browser 9.5 a*b",
    "errorCode": None,
    "readOnly": False,
    "userIdentity": {"type": "IAMUser", "arn": "arn:aws:iam::1:user/Alice", "sessionContext": {}},
    "requestParameters": {
        "userName": "alice",
        "policyDocument": '{"Action": "s3:GetObject"}',
        "maxResults": 5,
        "containers": [{"command": ["sh", "curl $AWS"]}, {"command": []}],
        "tags": [],
    },
    "responseElements": None,
    "resources": [{"ARN": "arn:one"}, {"ARN": "arn:two"}],
}


def rule(detection: dict[str, Any], **more: Any) -> dict[str, Any]:
    return {"title": "a rule", "logsource": SOURCE, "detection": {"condition": "selection"} | detection, **more}


def write(folder: Path, *rules: dict[str, Any]) -> Path:
    folder.mkdir(exist_ok=True)
    for number, each in enumerate(rules):
        (folder / f"{number}.yml").write_text(yaml.safe_dump(each, sort_keys=False))
    return folder


def load(folder: Path) -> RuleSet:
    return load_rules(folder, "cloudtrail")


MEETS = {
    "a nested field": {"userIdentity.type": "IAMUser"},
    "in any case": {"eventName": "createaccesskey", "userIdentity.type": "IAMUSER"},
    "one of a list": {"eventName": ["DeleteUser", "CreateAccessKey"]},
    "stars": {"eventName": "Create*Key", "userAgent": "*browser*"},
    "a question mark": {"eventName": "CreateAccessKe?"},
    "an escaped star is a star": {"userAgent|endswith": r"A\*B"},
    "contains": {"userAgent|contains": "s3 browser"},
    "contains anything": {"userAgent|contains": "*"},
    "starts and ends": {"eventName|startswith": "create", "eventSource|endswith": ".com"},
    "all of a list": {"userAgent|contains|all": ["S3", "Browser"]},
    "a regular expression anywhere": {"userIdentity.arn|re": "user/A.ice"},
    "one that looks at no case": {"userIdentity.arn|re|i": "USER/alice$"},
    "an expression of a network": {"sourceIPAddress|cidr": ["10.0.0.0/8", "198.51.100.0/24"]},
    "null": {"errorCode": None},
    "null of a field that is not there": {"errorMessage": None, "nothing.at.all": None},
    "an empty list has no value": {"requestParameters.tags": None},
    "exists": {"userAgent|exists": True, "errorMessage|exists": False},
    "a boolean as one and as a text": {"readOnly": [False]},
    "a boolean as a text": {"readOnly": "false"},
    "a number": {"requestParameters.maxResults": 5},
    "a number as a text": {"requestParameters.maxResults": "5"},
    "greater": {"requestParameters.maxResults|gte": 5, "requestParameters.maxResults|lt": 6},
    "an item of a list": {"resources.ARN": "arn:two"},
    "an item of a list in a list": {"requestParameters.containers.command|contains": "$AWS"},
    "an object as JSON": {"requestParameters|contains": '"userName":"alice"'},
    "a policy within a text": {"requestParameters|contains": '"s3:GetObject"'},
    "another field": {"userIdentity.arn|fieldref|endswith": "requestParameters.userName"},
    "case where it is asked for": {"userIdentity.type|cased": "IAMUser"},
    "one of several maps": [{"eventName": "DeleteUser"}, {"eventName": "CreateAccessKey", "readOnly": False}],
    "words anywhere": ["unheard-of", "getobject"],
}
MISSES = {
    "another text": {"eventName": "CreateAccess"},
    "no part of one": {"userAgent": "S3 Browser"},
    "not all of a list": {"userAgent|contains|all": ["S3", "Chrome"]},
    "not all fields": {"eventName": "CreateAccessKey", "readOnly": True},
    "a regular expression in another case": {"userIdentity.arn|re": "user/alice"},
    "case where it is asked for": {"userIdentity.type|cased": "iamuser"},
    "another network": {"sourceIPAddress|cidr": "203.0.113.0/24"},
    "no address": {"userAgent|cidr": "0.0.0.0/0"},
    "null of what has a value": {"readOnly": None},
    "exists of null": {"responseElements|exists": True},
    "a star for no value": {"errorCode|contains": "*"},
    "a number of a boolean": {"readOnly": 0},
    "not greater": {"requestParameters.maxResults|gt": 5},
    "a text is no number": {"eventName|gt": 1},
    "a piece twice where it is once": {"eventName": "*AccessKey*AccessKey*"},
    "pieces that would overlap": {"eventName": "CreateAccess*sKey"},
    "another field's other value": {"eventName|fieldref": "eventSource"},
    "an escaped star is no other letter": {"eventName": r"Create\*Key"},
    "words that are nowhere": ["unheard-of"],
}


@pytest.mark.parametrize("name", MEETS)
def test_a_rule_hits(name: str, tmp_path: Path) -> None:
    rules = load(write(tmp_path / "rules", rule({"selection": MEETS[name]})))
    assert rules.hits(RECORD) == rules.rules


@pytest.mark.parametrize("name", MISSES)
def test_a_rule_misses(name: str, tmp_path: Path) -> None:
    rules = load(write(tmp_path / "rules", rule({"selection": MISSES[name]})))
    assert rules.hits(RECORD) == ()


@pytest.mark.parametrize(
    ("condition", "hits"),
    [
        ("yes and not no", True),
        ("yes and not 1 of n*", True),
        ("not yes or no", False),
        ("all of y*", True),
        ("1 of them", True),
        ("all of them", False),
        (["no", "yes"], True),
    ],
)
def test_conditions_join_their_parts(condition: str | list[str], hits: bool, tmp_path: Path) -> None:
    parts = {"yes": {"eventName": "CreateAccessKey"}, "no": {"readOnly": True}}
    rules = load(write(tmp_path / "rules", rule(parts | {"condition": condition})))
    assert bool(rules.hits(RECORD)) is hits


@pytest.mark.parametrize("value", ["Q3JlYXRlVXNlcg==", "no Q3JlYXRlVXNlcg at all"])
def test_encoded_texts_are_found(value: str, tmp_path: Path) -> None:
    rules = load(write(tmp_path / "rules", rule({"selection": {"x|base64offset|contains": "CreateUser"}})))
    assert rules.hits({"x": value}) == rules.rules
    assert rules.hits({"x": "CreateUser"}) == ()


def test_the_index_by_name_changes_no_hit(tmp_path: Path) -> None:
    """Rules are asked only about records that could meet them; asked about all, they say the same."""
    detections = [MEETS[name] for name in MEETS] + [MISSES[name] for name in MISSES]
    detections += [{"eventName": ["CreateAccessKey", "x"]}, [{"eventName": "CreateAccessKey"}, {"readOnly": False}]]
    rules = load(write(tmp_path / "rules", *(rule({"selection": detection}) for detection in detections)))
    for name in ("CreateAccessKey", "CREATEACCESSKEY", "DeleteUser", "", None, 7):
        record = RECORD | {"eventName": name}
        assert rules.hits(record) == tuple(each for each in rules.rules if each.meets(record))
    assert sum(each.names is not None for each in rules.rules) > 5


def test_no_record_makes_a_wildcard_try_for_hours(tmp_path: Path) -> None:
    """As one regular expression it would, and the test would time out: 60,000 letters to the power of the stars."""
    rules = load(write(tmp_path / "rules", rule({"selection": {"userAgent": "*a*a*a*a*a*a*b"}})))
    assert rules.hits({"userAgent": "a" * 60_000}) == ()


UNSUPPORTED = {
    "it counts": rule({"selection": {"eventName": "a"}, "condition": "selection | count() > 5"}),
    "within a time": rule({"selection": {"eventName": "a"}, "timeframe": "5m"}),
    "correlates": {"title": "many", "correlation": {"type": "event_count", "rules": ["x"], "timespan": "5m"}},
    "a filter": {"title": "but those", "logsource": SOURCE, "filter": {"rules": ["x"], "condition": "a"}},
    "Unknown modifier": rule({"selection": {"eventName|sounds_like": "a"}}),
    "placeholder": rule({"selection": {"eventName|expand": "%admins%"}}),
    "part of a time": rule({"selection": {"eventTime|hour": 3}}),
    "names no part": rule({"selection": {"eventName": "a"}, "condition": "1 of filter*"}),
    "is invalid": rule({"selection": {"eventName|re": "(?<=a+)b"}}),
}


@pytest.mark.parametrize("reason", UNSUPPORTED)
def test_what_cannot_be_evaluated_is_named_with_its_reason(
    reason: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    good = rule({"selection": {"eventName": "CreateAccessKey"}})
    folder = write(tmp_path / "rules", good, UNSUPPORTED[reason])
    with caplog.at_level(logging.INFO):
        rules = load(folder)
    assert len(rules.rules) == 1
    ((name, told),) = rules.left_out
    assert "1.yml" in name
    assert UNSUPPORTED[reason]["title"] in name
    assert reason.removeprefix("within a time") in told
    assert f"not evaluated: {name}: {told}" in caplog.text


BROKEN: dict[str, tuple[str, str]] = {
    "no YAML": ("title: [", "not valid YAML"),
    "a key twice": ("title: a\ntitle: b", "given twice"),
    "a billion values": ("a: &a [1]\nb: [*a, *a]", "alias"),
    "a list": ("- 1", "expected a Sigma rule"),
    "nothing": ("", "expected a Sigma rule"),
    "no log source": (yaml.safe_dump({"title": "t", "detection": {}}), "logsource"),
    "no detection": (yaml.safe_dump({"title": "t", "logsource": SOURCE}), "detection"),
    "no title": (yaml.safe_dump(rule({"selection": {"a": 1}}, title=None)), "title"),
    "a level that is none": (yaml.safe_dump(rule({"selection": {"a": 1}}, level="hot")), "hot"),
    "a part that is not there": (yaml.safe_dump(rule({"condition": "other", "selection": {"a": 1}})), "other"),
    "a condition that is none": (yaml.safe_dump(rule({"condition": "a and", "selection": {"a": 1}})), "no Sigma rule"),
    "a network that is none": (yaml.safe_dump(rule({"selection": {"a|cidr": "1.2.3"}})), "CIDR"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_rule_is_refused_with_its_file(name: str, tmp_path: Path) -> None:
    text, reason = BROKEN[name]
    write(tmp_path, rule({"selection": {"eventName": "a"}}))
    (tmp_path / "broken.yml").write_text(text)
    with pytest.raises(OrchestratorError, match=r"broken\.yml") as refused:
        load(tmp_path)
    assert reason in str(refused.value)


def test_rules_for_other_log_sources_are_counted_and_left_out(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    selection = {"selection": {"eventName": "a"}}
    others = [{"product": "azure"}, {"product": "aws", "service": "guardduty"}, {"category": "process_creation"}]
    whole = [{"product": "aws"}, SOURCE]
    folder = write(tmp_path / "rules", *(rule(selection) | {"logsource": source} for source in [*others, *whole]))
    with caplog.at_level(logging.INFO):
        rules = load(folder)
    assert (len(rules.rules), rules.other_sources, rules.left_out) == (2, 3, ())
    assert "2 Sigma rules for aws cloudtrail" in caplog.text
    assert "3 are for other log sources" in caplog.text
    (tmp_path / "rules/4.yml").unlink()
    (tmp_path / "rules/3.yml").unlink()
    with pytest.raises(OrchestratorError, match="no rule for aws cloudtrail that can be evaluated, of 3 in 3 files"):
        load(folder)
    with pytest.raises(ConfigError, match="on records of cloudtrail alone, and these are of vpc_flow"):
        load_rules(folder, "vpc_flow")


def test_a_folder_without_rules_is_refused(tmp_path: Path) -> None:
    for folder in (tmp_path, tmp_path / "nowhere"):
        with pytest.raises(OrchestratorError, match="expected a folder with Sigma rules"):
            load(folder)


def test_a_changed_folder_is_read_anew(tmp_path: Path) -> None:
    folder = write(tmp_path / "rules", rule({"selection": {"eventName": "a"}}))
    first = load(folder)
    assert load(folder) is first
    write(folder, rule({"selection": {"eventName": "a"}}), rule({"selection": {"eventName": "b"}}))
    assert len(load(folder).rules) == 2


def test_a_label_is_the_tactic_of_the_highest_rule(tmp_path: Path) -> None:
    selection = {"selection": {"eventName": "a"}}
    rules = load(
        write(
            tmp_path / "rules",
            rule(selection, level="low", tags=["attack.discovery"]),
            rule(selection, level="medium", tags=["attack.t1098", "attack.lateral_movement", "attack.impact"]),
            rule(selection, level="critical", tags=["cve.2024-1"]),
            rule(selection),
        )
    )
    low, medium, critical, none = rules.rules
    assert [label_of(hits) for hits in ((), (low,), (none,))] == ["benign"] * 3
    assert [label_of(hits) for hits in ((low, medium), (medium, critical))] == ["lateral-movement", "attack"]
    assert medium.techniques == ["T1098"]
    assert low.techniques == critical.tactics == []


def test_the_public_rules_find_eleven_techniques_and_no_ordinary_work(
    sigma_folder: Path, stratus_folder: Path, invictus_folder: Path
) -> None:
    from benchmarks.cloudtrail import in_a_class, is_attack, records_of
    from shared.config import load_config
    from tests.processes import ROOT

    rules = load(sigma_folder)
    assert (len(rules.rules), rules.other_sources, rules.left_out) == (57, 69, ())

    def hit(records: list[Record], level: str) -> int:
        return sum(any(found.at_least(level) for found in rules.hits(each)) for each in records)

    of_technique = [records_of([path]) for path in stratus_folder.glob("*.json")]
    assert sum(hit(records, "medium") > 0 for records in of_technique) == 11
    assert sum(hit(records, "high") > 0 for records in of_technique) == 4
    c = load_config(ROOT / "config/cloudtrail.yaml").replace(data_path=str(invictus_folder))
    records = in_a_class(c, records_of(invictus_folder.glob("*.json")))
    benign = [each for each, its in zip(records, is_attack(c, records), strict=True) if not its]
    assert (len(benign), hit(benign, "medium"), hit(benign, "low")) == (468, 0, 32)
