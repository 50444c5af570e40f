"""CloudTrail's fields under the names that exports give them: each principal stays one, and where none is told it is
said."""

import copy
import json
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from shared.data_sources import audit, cloudtrail
from shared.data_sources.broken_lines import BrokenLines
from shared.data_sources.cloudtrail_features import fields_of
from shared.data_sources.cloudtrail_identity import principal_key, principal_name
from shared.data_sources.cloudtrail_keys import path_of
from shared.data_sources.cloudtrail_records import canonical
from tests.source_files import read_chunks, settings_of, write_json_lines
from tests.test_cloudtrail_meaning import PRINCIPALS, WITHOUT_ID
from tests.test_source_cloudtrail import Record, record, settings, some_records, write

ISSUER = {"type": "Role", "principalId": "AROADEPLOY", "arn": "arn:aws:iam::1:role/deploy", "accountId": "1"}


def callers() -> list[Record]:
    """Some records of each kind of principal, failed and denied ones and sign-ins among them."""
    session = {"attributes": {"mfaAuthenticated": "false"}, "sessionIssuer": ISSUER}
    role = {"type": "AssumedRole", "principalId": "AROADEPLOY:s", "sessionContext": session}
    more: list[dict[str, Any]] = [
        {"userIdentity": role | {"arn": "arn:aws:sts::1:assumed-role/deploy/s"}, "errorCode": "AccessDenied"},
        {"userIdentity": {"type": "AWSService", "invokedBy": "ec2.amazonaws.com"}, "readOnly": False},
        {"eventName": "ConsoleLogin", "responseElements": {"ConsoleLogin": "Failure"}},
        {"eventName": "ConsoleLogin", "additionalEventData": {"MFAUsed": "No"}},
        *({"userIdentity": PRINCIPALS[name]} for name in ("repository", "SAML", "Identity Center", "root", "user")),
    ]
    return [record(number, **part) for number, part in enumerate(more)] + some_records()


def flat(value: Record, between: str, name: Callable[[str], str] = str) -> Record:
    """Each field of a structure as a field of the record."""
    found: Record = {}
    for key, item in value.items():
        if isinstance(item, dict):
            found |= {name(key) + between + inner: cell for inner, cell in flat(item, between, name).items()}
        else:
            found[name(key)] = item
    return found


def snake(name: str) -> str:
    return "".join(
        "_" + letter.lower() if letter.isupper() else letter
        for letter in name.replace("ID", "Id").replace("MFA", "Mfa")
    )


def as_frame(records: list[Record]) -> pd.DataFrame:
    return pd.json_normalize(records)


FLAT: dict[str, Callable[[list[Record]], str]] = {
    "dots": lambda r: "\n".join(json.dumps(flat(item, ".")) for item in r),
    "dots in lower case": lambda r: "\n".join(json.dumps(flat(item, ".", str.lower)) for item in r),
    "underscores": lambda r: "\n".join(json.dumps(flat(item, "_")) for item in r),
    "Athena": lambda r: "\n".join(json.dumps(flat(item, "_", str.lower)) for item in r),
    "upper case": lambda r: "\n".join(json.dumps(flat(item, "_", str.upper)) for item in r),
    "snake case": lambda r: "\n".join(json.dumps(flat(item, "_", snake)) for item in r),
    "snake case, twice between": lambda r: "\n".join(json.dumps(flat(item, "__", snake)) for item in r),
    "slashes": lambda r: "\n".join(json.dumps(flat(item, "/")) for item in r),
    "colons": lambda r: "\n".join(json.dumps(flat(item, ":")) for item in r),
    "outer keys in upper case": lambda r: "\n".join(json.dumps({k.upper(): v for k, v in i.items()}) for i in r),
    "json_normalize, JSON": lambda r: as_frame(r).to_json(orient="records"),
    "json_normalize, lines": lambda r: as_frame(r).to_json(orient="records", lines=True),
    "json_normalize, CSV": lambda r: as_frame(r).to_csv(index=False),
    "pandas, structures as Python's": lambda r: pd.DataFrame(r).to_csv(index=False),
    "lists of one value": lambda r: "\n".join(json.dumps({**i, "userIdentity": [i["userIdentity"]]}) for i in r),
}  # fmt: skip


def features(path: Path, **changes: Any) -> tuple[np.ndarray, BrokenLines]:
    chunks, broken = read_chunks(cloudtrail, settings(path, **({"max_broken_share": 0.0} | changes)))
    return np.concatenate([chunk.features for chunk in chunks]), broken


@pytest.mark.parametrize("name", FLAT)
def test_flat_records_give_the_rows_of_nested_ones(tmp_path: Path, name: str) -> None:
    """Keys such as userIdentity.arn made all principals one, without a word."""
    expected, _ = features(write(tmp_path / "expected.json", callers()))
    (tmp_path / "found.json").write_text(FLAT[name](callers()))
    found, broken = features(tmp_path / "found.json")
    assert (broken.lines, broken.broken) == (len(callers()), 0)
    assert found.shape == expected.shape
    assert np.array_equal(found, expected)


@pytest.mark.parametrize("between", [".", "_"])
@pytest.mark.parametrize("known", [PRINCIPALS, WITHOUT_ID], ids=["with an id", "without"])
def test_a_flat_identity_is_the_nested_one(known: dict[str, dict[str, Any]], between: str) -> None:
    for name, identity in known.items():
        found = canonical(flat({"eventTime": "x", "userIdentity": identity}, between, str.lower))
        assert principal_key(found["userIdentity"]) == principal_key(
            canonical({"userIdentity": identity})["userIdentity"]
        ), name


@pytest.mark.parametrize(
    ("columns", "key"),
    [
        ({"arn": "arn:aws:iam::1:user/a", "type": "IAMUser", "principalid": "AIDAA"}, "AIDAA"),
        ({"principalId": "AIDAA"}, "AIDAA"),
        ({"principal_id": "AIDAA", "account_id": 1}, "AIDAA"),
        ({"User name": "alice"}, "|||alice"),
        ({"arn": "arn:aws:iam::1:user/a"}, "IAMUser||||||arn:aws:iam::1:user/a"),
        ({"arn": "arn:aws:sts::1:assumed-role/deploy/i-1"}, "AssumedRole||||||arn:aws:sts::1:assumed-role/deploy"),
        ({"sessionissuer.arn": "arn:aws:iam::1:role/deploy", "type": "AssumedRole"}, "arn:aws:iam::1:role/deploy"),
        ({"useridentity.sessioncontext.sessionissuer.username": "deploy", "type": "AssumedRole"}, "||deploy"),
        ({"invokedby": "ec2.amazonaws.com", "type": "AWSService"}, "AWSService||ec2.amazonaws.com"),
        ({"userIdentity": "arn:aws:iam::1:user/a"}, "IAMUser||||||arn:aws:iam::1:user/a"),
        ({"userIdentity": "alice"}, "|||alice"),
        ({"userIdentity": "null", "principalId": "AIDAA"}, "AIDAA"),
        ({"userIdentity": None, "principalId": "AIDAA"}, "AIDAA"),
        ({"userIdentity": {"principalid": "AIDAA"}}, "AIDAA"),
        ({"userIdentity": {"principal_id": "AIDAA", "type": "IAMUser"}}, "AIDAA"),
        ({"userIdentity": "{'type': 'IAMUser', 'principalId': 'AIDAA'}"}, "AIDAA"),
        ({"userIdentity": json.dumps(json.dumps({"principalId": "AIDAA"}))}, "AIDAA"),
        ({"userIdentity.principalId": float(111122223333), "userIdentity.type": "Root"}, "Root||111122223333"),
        ({"userIdentity.principalId": "111122223333.0", "userIdentity.type": "Root"}, "Root||111122223333"),
        ({"userIdentity.type": "IAMUser", "userIdentity.principalId": float("nan")}, "IAMUser"),
        ({"userIdentity": {"type": "IAMUser", "principalId": "null", "userName": "a"}}, "IAMUser|||a"),
        ({"userIdentity": {"type": "IAMUser", "principalId": "-", "userName": "a"}}, "IAMUser|||a"),
        ({"userIdentity": {"principalId": None, "arn": None}, "userIdentity.principalId": "AIDAA"}, "AIDAA"),
        ({"userIdentity": {"accountId": "1"}, "userIdentity.principalId": "AIDAA"}, "AIDAA"),
        ({"userIdentity.sessionContext": {"sessionissuer": ISSUER}, "userIdentity.type": "AssumedRole"}, "AROADEPLOY"),
        ({"useridentity_sessioncontext": json.dumps({"sessionIssuer": ISSUER}), "type": "AssumedRole"}, "AROADEPLOY"),
        ({"sessioncontext": "{sessionissuer={principalid=AROADEPLOY}}", "type": "AssumedRole"}, "AROADEPLOY"),
        ({"sessionIssuer": ISSUER, "type": "AssumedRole"}, "AROADEPLOY"),
        ({"userIdentity": {"type": "Role", "sessionContext": json.dumps({"sessionIssuer": ISSUER})}}, "AROADEPLOY"),
        ({"userIdentity": {"type": "Role", "sessionContext.sessionIssuer.principalId": "AROADEPLOY"}}, "AROADEPLOY"),
        ({"userIdentity": {"type": "AssumedRole", "sessioncontext_sessionissuer_arn": "arn:x"}}, "arn:x"),
        ({"userIdentity.onBehalfOf": {"userid": "u1", "identitystorearn": "s"}}, "IdentityCenterUser|s|u1"),
        # A kind of document, and what a call was made on, are nobody.
        ({"type": "cloudtrail", "arn": "arn:aws:s3:::bucket"}, ""),
    ],
)  # fmt: skip
def test_who_is_found_under_whatever_columns_there_are(columns: dict[str, Any], key: str) -> None:
    assert principal_key(canonical({"eventTime": "2024-05-01T10:00:00Z"} | columns).get("userIdentity", {})) == key


@pytest.mark.parametrize("identity", ["{broken", "[1, 2]", ["a", "b"], 5, "{'a': " + "(" * 300])
def test_an_identity_that_cannot_be_read_is_a_broken_record(tmp_path: Path, identity: Any) -> None:
    write(tmp_path / "a.json", [*some_records(), record() | {"userIdentity": identity}])
    _, broken = features(tmp_path / "a.json", max_broken_share=0.1)
    assert broken.broken == 1


@pytest.mark.parametrize(
    ("key", "path"),
    [
        ("useragent", ("userAgent",)),
        ("Source IP address", ("sourceIPAddress",)),
        ("responseelements_consolelogin", ("responseElements", "ConsoleLogin")),
        ("response_elements.ConsoleLogin", ("responseElements", "ConsoleLogin")),
        ("requestParameters.bucketName", ("requestParameters", "bucketName")),
        ("requestParameters.a..b", ("requestParameters.a..b",)),
        ("labels.kind", ("labels.kind",)),
        ("x" * 201, ("x" * 201,)),
        ("", ("",)),
    ],
)
def test_paths_of_keys(key: str, path: tuple[str, ...]) -> None:
    assert path_of(key) == path


def test_a_flat_field_does_not_change_the_record_it_is_read_from() -> None:
    given = {
        "eventTime": "x",
        "requestParameters": {"a": 1},
        "requestParameters.b": 2,
        "userIdentity.arn": "arn:x",
        "userIdentity.sessionContext": {"attributes": {"a": 1}},
        "userIdentity.sessionContext.attributes.b": 2,
        "requestParameters.c": {"d": 1},
        "requestParameters.c.e": 2,
    }
    before = copy.deepcopy(given)
    assert canonical(given)["requestParameters"] == {"a": 1, "b": 2, "c": {"d": 1, "e": 2}}
    assert given == before


def test_who_has_a_name_alone_is_shown_by_it() -> None:
    issued = {"type": "AssumedRole", "sessionContext": {"sessionIssuer": {"arn": "arn:aws:iam::1:role/deploy"}}}
    assert principal_name({"type": "IAMUser", "userName": "alice", "principalId": "null"}) == "alice"
    assert principal_name(issued) == "arn:aws:iam::1:role/deploy"
    assert principal_name(PRINCIPALS["Identity Center"]) == "u1"
    assert principal_name(WITHOUT_ID["an access key"]) == "AKIAONE"
    assert fields_of(record(userIdentity={"type": "IAMUser"}))["principal"] == "IAMUser"


NOBODY: dict[str, Record] = {
    "no identity": {"who": "alice"},
    "a type alone": {"userIdentity.type": "IAMUser"},
    "a type and an account": {"userIdentity": {"type": "IAMUser", "accountId": "1"}},
    "an empty one": {"userIdentity": {}},
    "unknown columns": {"caller_arn_x": "arn:aws:iam::1:user/alice", "caller_type": "IAMUser"},
}


@pytest.mark.parametrize("source", [cloudtrail, audit])
@pytest.mark.parametrize("name", NOBODY)
def test_a_file_that_names_no_principal_is_said_in_one_line(
    tmp_path: Path, name: str, source: Any, caplog: pytest.LogCaptureFixture
) -> None:
    bare = [{key: value for key, value in item.items() if key != "userIdentity"} for item in some_records()]
    path = write_json_lines(tmp_path / "a.json", [item | NOBODY[name] for item in bare])
    with caplog.at_level(logging.WARNING, logger="data"):
        read_chunks(source, settings_of(source.__name__.rpartition(".")[2], path, labels="none"), labelled=False)
    told = [line.getMessage() for line in caplog.records if "NO PRINCIPAL" in line.getMessage()]
    assert len(told) == 1
    assert f"in any of {len(bare)} records" in told[0]
    assert all(key in told[0] for key in ("eventName", *NOBODY[name]))


def test_many_files_of_a_kind_that_name_nobody_are_said_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    nobody = [item | {"userIdentity": None} for item in some_records()]
    for number in range(20):
        write(tmp_path / f"{number}.json", nobody[number::20])
    write_json_lines(tmp_path / "other.json", [item | {"caller": "x"} for item in nobody])
    features(tmp_path)
    assert caplog.text.count("NO PRINCIPAL") == 2


def test_one_record_that_names_its_principal_is_enough(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    features(write(tmp_path / "a.json", [record() | {"userIdentity": None}, record(1)]))
    assert "NO PRINCIPAL" not in caplog.text


@pytest.mark.parametrize("spelling", [False, "false", "False", "FALSE"])
def test_false_is_false_however_a_table_writes_it(spelling: object) -> None:
    session = {"attributes": {"mfaAuthenticated": spelling}}
    found = fields_of(record(readOnly=spelling, userIdentity={"principalId": "AIDAA", "sessionContext": session}))
    assert (found["write"], found["no_mfa"]) == (True, True)


OTHERS: dict[str, Record] = {
    "category, in lower case": {"eventcategory": "Insight"},
    "type, in lower case": {"eventtype": "AwsCloudTrailInsight"},
    "details, as Athena prints them": {"insightdetails": "{state=Start, eventsource=iam.amazonaws.com}"},
    "details, in columns": {"insightDetails.state": "Start", "insightDetails.eventName": "ListUsers"},
    "category, in upper case": {"EVENTCATEGORY": "Insight"},
    "category, with an underscore": {"event_category": "Aggregated"},
}


@pytest.mark.parametrize("form", ["lines", "CSV"])
@pytest.mark.parametrize("name", OTHERS)
def test_an_insight_is_no_call_however_its_keys_are_spelt(tmp_path: Path, name: str, form: str) -> None:
    """In a CSV file of Athena they counted as calls."""
    lower = [{key.lower(): value for key, value in item.items()} for item in [*some_records(), record(5000)]]
    lower[-1] |= OTHERS[name]
    path = tmp_path / "a.json"
    if form == "lines":
        write_json_lines(path, lower)
    else:
        pd.DataFrame(lower).to_csv(path, index=False)
    _, broken = features(path)
    assert (broken.broken, broken.left_out.total()) == (0, 1)


@pytest.mark.parametrize("value", [None, "", "null", "-", {}])
def test_an_empty_column_of_insights_makes_no_insight_of_a_call(tmp_path: Path, value: Any) -> None:
    """Exports have all columns in each row, and calls were left out for one that is empty."""
    write_json_lines(tmp_path / "a.json", [item | {"insightDetails": value} for item in some_records()])
    assert not features(tmp_path / "a.json")[1].left_out
