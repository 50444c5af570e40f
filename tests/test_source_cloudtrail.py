"""CloudTrail: every form the records come in, what a window holds, and that the label is no feature."""

import copy
import gzip
import json
import logging
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from shared.config import Config, load_config
from shared.data_sources import cloudtrail
from shared.data_sources.cloudtrail_identity import principal_key
from shared.data_sources.file_source import FileSource
from shared.data_sources.source_types import Chunk, Inputs
from shared.data_utils import feature_count, load_client_data, load_test_data, stream_features
from shared.errors import DataError
from tests.processes import ROOT
from tests.source_files import named_features, read_chunks, settings_of

SOURCE = FileSource(cloudtrail)
Record = dict[str, Any]


def record(
    second: int = 0, name: str = "ListUsers", service: str = "iam", user: str = "AIDAALICE", **more: Any
) -> Record:
    return {
        "eventTime": f"2024-05-01T{10 + second // 3600:02}:{second // 60 % 60:02}:{second % 60:02}Z",
        "eventSource": f"{service}.amazonaws.com",
        "eventName": name,
        "awsRegion": "eu-west-1",
        "sourceIPAddress": "198.51.100.7",
        "userAgent": "aws-cli/2",
        "userIdentity": {
            "type": "IAMUser",
            "principalId": user,
            "arn": f"arn:aws:iam::1:user/{user}",
            "userName": user,
        },
        "readOnly": True,
        "eventID": f"{user}-{second}-{name}",
        "recipientAccountId": "111111111111",
        **more,
    }


def some_records() -> list[Record]:
    return [
        record(second, user=user, userAgent="stratus-red-team_1" if second % 9 == 0 else "console")
        for second in range(0, 3600, 20)
        for user in ("AIDAALICE", "AIDABOB")
    ]


settings = partial(
    settings_of, "cloudtrail", label_field="userAgent", label_patterns=("*Stratus*",), num_features=26 + 16
)


def write(path: Path, records: list[Record]) -> Path:
    path.write_text(json.dumps({"Records": records}))
    return path


def read(config: Config) -> Chunk:
    """All windows of `data_path`."""
    ((chunk,), _) = read_chunks(cloudtrail, config)
    return chunk


features_of = partial(named_features, cloudtrail)


def as_lookup(records: list[Record]) -> str:
    return json.dumps({"Events": [{"EventId": "x", "CloudTrailEvent": json.dumps(item)} for item in records]})


FORMS: dict[str, Callable[[list[Record]], bytes]] = {
    "records.json": lambda r: json.dumps({"Records": r}).encode(),
    "indented.json": lambda r: json.dumps({"Records": r}, indent=2).encode(),
    "list.json": lambda r: json.dumps(r).encode(),
    "lines.jsonl": lambda r: "\n".join(json.dumps(item) for item in r).encode(),
    "lines-with-gaps.ndjson": lambda r: "\r\n\r\n".join(json.dumps(item) for item in r).encode(),
    "envelopes-on-lines.json": lambda r: "\n".join(json.dumps({"Records": r[i::2]}) for i in range(2)).encode(),
    "packed.json.gz": lambda r: gzip.compress(json.dumps({"Records": r}).encode()),
    "packed-without-suffix.json": lambda r: gzip.compress(json.dumps({"Records": r}).encode()),
    "lookup.json": lambda r: as_lookup(r).encode(),
    "powershell.json": lambda r: as_lookup(r).encode("utf-16"),
    "bom.json": lambda r: json.dumps({"Records": r}).encode("utf-8-sig"),
}


@pytest.mark.parametrize("name", FORMS)
def test_every_form_gives_the_same_rows(tmp_path: Path, name: str) -> None:
    expected = read(settings(write(tmp_path / "expected.json", some_records())))
    (tmp_path / name).write_bytes(FORMS[name](some_records()))
    found = read(settings(tmp_path / name))
    assert np.array_equal(found.features, expected.features)
    assert np.array_equal(found.families, expected.families)


@pytest.mark.parametrize("letter", ["\u2028", "\u2029", "\x85", "\v", "\x1c"])
def test_no_letter_within_a_record_hides_it(tmp_path: Path, letter: str) -> None:
    """`str.splitlines` cuts at each of these; JSON allows some within a text, and the rest between two values."""
    records = [record(second, userAgent="x" if letter in "\v\x1c" else f"a{letter}b") for second in range(10)]
    path = tmp_path / "a.jsonl"
    path.write_text("\n".join(json.dumps(item, ensure_ascii=False) for item in records))
    assert features_of(settings(path))["events"].tolist() == [pytest.approx(np.log1p(10))]


@pytest.mark.parametrize("time", ["9999-01-01T00:00:00Z", "tomorrow and an hour"])
def test_a_record_of_the_future_is_broken_and_closes_no_window(tmp_path: Path, time: str) -> None:
    if time.startswith("tomorrow"):
        time = (datetime.now(UTC) + timedelta(hours=25)).isoformat()
    records = some_records()
    expected = read(settings(write(tmp_path / "expected.json", records)))
    for part in range(6):
        of_part = [*records[part * 60 : part * 60 + 60], *([record(0, eventTime=time)] if part == 1 else [])]
        write(tmp_path / f"part-{part}.json", of_part)
    (tmp_path / "expected.json").unlink()
    config = settings(tmp_path)
    learned = cloudtrail.schema(config, Inputs(tmp_path))
    parts = [features for _, features in stream_features(config, tmp_path, learned)]
    assert np.array_equal(np.concatenate(parts), expected.features)


def test_a_record_of_this_minute_is_none_of_the_future(tmp_path: Path) -> None:
    now = datetime.now(UTC).isoformat()
    assert len(read(settings(write(tmp_path / "a.json", [record(0, eventTime=now)]))).features) == 1


def test_a_bucket_is_read_without_its_digests(tmp_path: Path) -> None:
    records = some_records()
    expected = read(settings(write(tmp_path / "expected.json", records)))
    day = tmp_path / "AWSLogs/111111111111/CloudTrail/eu-west-1/2024/05/01"
    digests = tmp_path / "AWSLogs/111111111111/CloudTrail-Digest/eu-west-1"
    day.mkdir(parents=True)
    digests.mkdir(parents=True)
    for part in range(4):
        content = gzip.compress(json.dumps({"Records": records[part * 90 : part * 90 + 90]}).encode())
        (day / f"111_CloudTrail_eu-west-1_20240501T1{part}00Z_x.json.gz").write_bytes(content)
    (digests / "d.json.gz").write_bytes(gzip.compress(b'{"digestS3Object": "x"}', mtime=0))
    assert np.array_equal(read(settings(tmp_path / "AWSLogs")).features, expected.features)


def test_a_window_counts_what_its_principal_did(tmp_path: Path) -> None:
    denied = {"errorCode": "Client.UnauthorizedOperation"}
    no_mfa = {"sessionContext": {"attributes": {"mfaAuthenticated": "false"}}}
    root = {"type": "Root", "principalId": "111111111111", **no_mfa}
    records = [
        record(1, "StopLogging", "cloudtrail", readOnly=False),
        record(2, "RunInstances", "ec2", readOnly=False, awsRegion="us-east-1", **denied),
        record(3, "RunInstances", "ec2", readOnly=False, errorCode="ThrottlingException"),
        record(4, "GetSecretValue", "secretsmanager", sourceIPAddress="203.0.113.9"),
        record(5, "ListKeys", "kms", userIdentity=root),
        record(301, "RunInstances", "ec2"),
        record(302, "AssumeRole", "sts"),
    ]
    rows = features_of(settings(write(tmp_path / "a.json", records), label_field="requestID"))
    alice, root_row, later = (rows.iloc[row] for row in range(3))
    for name, count in (("events", 4), ("apis", 3), ("services", 3), ("regions", 2), ("addresses", 2)):
        assert alice[name] == pytest.approx(np.log1p(count)), name
    for name, share in (("error_share", 0.5), ("denied_share", 0.25), ("write_share", 0.75)):
        assert alice[name] == pytest.approx(share), name
    assert alice["tampering_events"] == alice["secret_events"] == pytest.approx(np.log(2))
    assert (alice["new_api_share"], alice["new_region_share"], alice["new_address_share"]) == (0.75, 0.5, 0.5)
    assert (later["new_api_share"], later["new_region_share"], later["new_address_share"]) == (0.5, 0, 0)
    assert later["sts_events"] == pytest.approx(np.log(2))
    assert (root_row["identity_Root"], root_row["no_mfa_share"], alice["identity_IAMUser"]) == (1, 1, 1)
    assert alice["hour_sin"] ** 2 + alice["hour_cos"] ** 2 == pytest.approx(1)
    hashed = np.expm1(rows.filter(like="api#").to_numpy()).sum(axis=1)
    assert hashed == pytest.approx([4, 1, 2], rel=1e-5)


def renamed(value: Any, key: str = "") -> Any:
    """A record in which everything that a person or a tool names has one and the same name: whatever is grouped or
    counted by a name comes out differently."""
    if isinstance(value, dict):
        return {name: renamed(item, name) for name, item in value.items()}
    if isinstance(value, list):
        return [renamed(item, key) for item in value]
    if key == "principalId" and isinstance(value, str):
        return value.split(":")[0] + (":another-session" if ":" in value else "")
    names = ("userAgent", "userName", "arn", "roleName", "roleArn", "roleSessionName", "sessionName", "invokedByName")
    return "changed" if key in names and isinstance(value, str) else value


def test_no_name_is_a_feature_on_real_records(tmp_path: Path, invictus_folder: Path) -> None:
    """What says "stratus" in these records: user agents, roles, sessions. The windows must not change without it."""
    records = [
        item
        for path in cloudtrail.files(invictus_folder)
        for item in json.loads(path.read_text(encoding="utf-8"))["Records"]
    ]
    other = [renamed(copy.deepcopy(item)) for item in records]
    assert sum("stratus" in str(item.get("userAgent")) for item in records) == 1146
    assert not any("stratus" in json.dumps([item.get("userAgent"), item["userIdentity"]]) for item in other)
    config = settings(invictus_folder)
    before, after = read(config), read(settings(write(tmp_path / "other.json", other)))
    assert np.array_equal(before.features, after.features)
    # A broken reading of labels would make this test pass for nothing.
    assert (before.families != "benign").sum() == 14
    assert (after.families == "benign").all()
    assert len(before.features) == 48


@pytest.mark.parametrize(
    ("field", "gone", "kept"),
    [
        ("userAgent", set(), "hour_sin"),
        ("eventTime", {"hour_sin", "hour_cos"}, "events"),
        ("awsRegion", {"regions", "new_region_share"}, "addresses"),
        ("errorCode", {"error_share", "denied_share"}, "events"),
        ("userIdentity", {"identity_Root", "identity_other", "no_mfa_share"}, "apis"),
        ("eventName", {"apis", "new_api_share", "tampering_events", "secret_events", "api#0", "api#15"}, "services"),
    ],
)
def test_what_is_made_from_the_field_of_the_label_is_no_feature(
    tmp_path: Path, field: str, gone: set[str], kept: str
) -> None:
    full = cloudtrail.schema(settings(tmp_path, label_field="requestID"), Inputs(tmp_path))
    schema = cloudtrail.schema(settings(tmp_path, label_field=field), Inputs(tmp_path))
    assert gone <= set(full.names)
    assert not gone & set(schema.names)
    assert kept in schema.names
    assert schema.excluded == (field,)


def test_the_group_of_a_principal_has_no_name_in_it() -> None:
    first = {"type": "AssumedRole", "principalId": "AROAX:stratus", "arn": "arn:aws:sts::1:assumed-role/evil/stratus"}
    second = {"type": "AssumedRole", "principalId": "AROAX:work", "arn": "arn:aws:sts::1:assumed-role/good/work"}
    assert principal_key(first) == principal_key(second) == "AROAX"
    assert principal_key({"type": "AWSService", "invokedBy": "ec2.amazonaws.com"}) == "AWSService||ec2.amazonaws.com"
    assert principal_key({}) == ""


@pytest.mark.parametrize(
    ("lines", "attacks"),
    [
        (["event_id,label", "AIDABOB-20-ListUsers,exfiltration", "AIDAALICE-20-ListUsers,benign"], {"AIDABOB": 1}),
        (["start,end,label", "2024-05-01T10:05:00Z,2024-05-01T10:10:00Z,x"], {"AIDAALICE": 1, "AIDABOB": 1}),
        (["Start, End, Label", "1714557900,1714558200,x"], {"AIDAALICE": 1, "AIDABOB": 1}),
        (["address,start,end,label", "198.51.100.7,,2024-05-01T10:05:00Z,x"], {"AIDAALICE": 1, "AIDABOB": 1}),
        (["address,label", "203.0.113.1,x"], {}),
    ],
)
def test_labels_from_a_file(tmp_path: Path, lines: list[str], attacks: dict[str, int]) -> None:
    labels = tmp_path / "labels.csv"
    labels.write_text("\n".join(lines))
    data = write(tmp_path / "a.json", some_records())
    chunk = read(settings(data, label_path=str(labels), label_field="", label_patterns=()))
    principals = chunk.meta["principal"][chunk.families != "benign"].str.rsplit("/").str[-1]
    assert dict(principals.value_counts()) == attacks
    assert set(chunk.families) <= {"benign", "exfiltration", "x"}


def test_a_file_of_times_takes_the_hour_out_of_the_features(tmp_path: Path) -> None:
    labels = tmp_path / "labels.csv"
    labels.write_text("start,end,label\n1714557900,1714558200,x\n")
    data = write(tmp_path / "a.json", some_records())
    config = settings(data, label_path=str(labels), label_field="", label_patterns=())
    assert feature_count(config) == feature_count(settings(data)) - 2
    with pytest.raises(DataError, match="num_features = 42: this data has 40 features; set num_features: 40"):
        load_test_data(config)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("label\nx\n", "columns label; expected a column label, and event_id, or start and end"),
        ("start,label\n1,x\n", "columns start, label; expected"),
        ("start,end,label\nsoon,,x\n", "line 2: start = 'soon', expected a time such as"),
        ("", "not a CSV file"),
    ],
)
def test_a_malformed_file_of_labels_is_refused(tmp_path: Path, text: str, message: str) -> None:
    labels = tmp_path / "labels.csv"
    labels.write_text(text)
    data = write(tmp_path / "a.json", some_records())
    with pytest.raises(DataError, match=message):
        read(settings(data, label_path=str(labels), label_field="", label_patterns=()))


def test_broken_records_are_skipped_and_named_and_too_many_refused(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    lines = [json.dumps(item) for item in some_records()]
    lines[3] = lines[3][:-9]
    lines[4] = json.dumps({"eventName": "x", "eventSource": "y"})
    lines[5] = json.dumps(record() | {"eventTime": "yesterday"})
    lines[6] = "[" * 100_000
    path = tmp_path / "a.jsonl"
    path.write_text("\n".join(lines))
    with caplog.at_level(logging.WARNING, logger="data"):
        chunk = read(settings(path, max_broken_share=0.02))
    assert chunk.meta["events"].sum() == 356
    assert "line 4: malformed JSON: Invalid control character" in caplog.text
    assert "line 5: no eventTime, which every CloudTrail record has" in caplog.text
    assert "line 6: eventTime = 'yesterday': expected ISO 8601" in caplog.text
    assert "skipped 4 broken lines of 360" in caplog.text
    with pytest.raises(DataError, match=r"4 of 360 lines are broken, more than max_broken_share = 0\.01"):
        read(settings(path))


@pytest.mark.parametrize("content", [b"", b"not json at all", b'{"a": 1}', gzip.compress(b"{}" * 99, mtime=0)[:-9]])
def test_what_is_no_cloudtrail_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "a.json").write_bytes(content)
    with pytest.raises(DataError, match=r"a\.json"):
        load_test_data(settings(tmp_path / "a.json"))


def test_records_to_score_arrive_in_parts_that_make_the_whole(invictus_folder: Path) -> None:
    config = settings(invictus_folder)
    whole = read(config)
    parts = list(stream_features(config, invictus_folder, SOURCE.schema(config, None)))
    assert len(parts) > 5
    assert np.array_equal(np.concatenate([features for _, features in parts]), whole.features)
    meta = pd.concat([meta for meta, _ in parts])
    assert meta["events"].sum() == 2900
    assert meta["principal"].str.contains("bert-jan").any()  # a person must see who it was


def test_records_out_of_order_make_the_same_windows(tmp_path: Path) -> None:
    records = some_records()
    expected = read(settings(write(tmp_path / "a.json", records)))
    assert np.array_equal(read(settings(write(tmp_path / "b.json", records[::-1]))).features, expected.features)


def test_an_event_that_was_delivered_twice_counts_once(tmp_path: Path) -> None:
    records = some_records()
    expected = read(settings(write(tmp_path / "a.json", records)))
    write(tmp_path / "b.json", records[100:])
    assert np.array_equal(read(settings(tmp_path)).features, expected.features)
    without_id = [item | {"eventID": None} for item in records]
    found = read(settings(write(tmp_path / "c.json", without_id)))
    assert np.array_equal(found.features, expected.features)


@pytest.mark.parametrize("blank", ["-", "null", "NaN", "None", "N/A", "\\N", float("nan"), "0000-00"])
def test_events_without_an_id_of_their_own_are_no_copies_of_each_other(tmp_path: Path, blank: object) -> None:
    """All but the first of a file were left out, for one text that stands in all."""
    records = some_records()
    expected = read(settings(write(tmp_path / "a.json", records)))
    found = read(settings(write(tmp_path / "b.json", [item | {"eventID": blank} for item in records])))
    assert np.array_equal(found.features, expected.features)


@pytest.mark.parametrize("time", ["0001-01-01T00:00:00Z", "1970-01-01T00:00:00Z", "20240501", "2024-05-01"])
def test_what_programs_write_for_no_time_and_a_date_alone_are_no_time(tmp_path: Path, time: str) -> None:
    good = read(settings(write(tmp_path / "a.json", some_records())))
    records = [*some_records(), record(7, eventTime=time)]
    found = read(settings(write(tmp_path / "b.json", records), max_broken_share=0.1))
    assert np.array_equal(found.features, good.features)


def test_the_table_of_sentinel_is_read(tmp_path: Path) -> None:
    """Its columns are those of AWSCloudTrail: no eventTime, an id by another name, and who called in columns."""
    records = some_records()
    rows = [
        {
            "TimeGenerated": item["eventTime"], "AwsEventId": item["eventID"], "EventSource": item["eventSource"],
            "EventName": item["eventName"], "UserIdentityType": "IAMUser", "AWSRegion": item["awsRegion"],
            "UserIdentityPrincipalid": item["userIdentity"]["principalId"], "SourceIpAddress": item["sourceIPAddress"],
            "UserIdentityArn": item["userIdentity"]["arn"], "ReadOnly": item["readOnly"], "ErrorCode": "",
            "UserAgent": item["userAgent"], "RecipientAccountId": item["recipientAccountId"],
        }
        for item in records
    ]  # fmt: skip
    expected = read(settings(write(tmp_path / "a.json", records)))
    assert np.array_equal(read(settings(write(tmp_path / "b.json", [*rows, *rows[:9]]))).features, expected.features)
    pd.DataFrame(rows).to_csv(tmp_path / "c.csv", index=False)
    assert np.array_equal(read(settings(tmp_path / "c.csv")).features, expected.features)


@pytest.mark.parametrize("field", ["recipientAccountId", "accountId", "principalId"])
def test_a_number_of_an_account_that_was_rounded_is_a_broken_record(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, field: str
) -> None:
    """All accounts whose numbers begin alike would be one, and so would their roots."""
    odd = record(7)
    (odd if field == "recipientAccountId" else odd["userIdentity"])[field] = "1.11122E+11"
    expected = read(settings(write(tmp_path / "a.json", some_records())))
    found = read(settings(write(tmp_path / "b.json", [*some_records(), odd]), max_broken_share=0.1))
    assert np.array_equal(found.features, expected.features)
    assert f"{field} = '1.11122E+11': a spreadsheet has rounded" in caplog.text


def test_what_s3_says_of_objects_is_no_call(tmp_path: Path) -> None:
    said = {
        "eventVersion": "2.1", "eventSource": "aws:s3", "awsRegion": "eu-west-1", "eventTime": "2024-05-01T10:00:00Z",
        "eventName": "ObjectCreated:Put", "userIdentity": {"principalId": "AWS:AROAX:tool"}, "s3": {"object": {}},
    }  # fmt: skip
    expected = read(settings(write(tmp_path / "a.json", some_records())))
    path = write(tmp_path / "b.json", [said, *some_records()])
    assert np.array_equal(read(settings(path, max_broken_share=0.0)).features, expected.features)


def test_milliseconds_as_text_are_no_day_of_another_century(tmp_path: Path) -> None:
    """1772120912159 is the 9th of December 1772 to a parser of ISO 8601, and the 26th of February 2026."""
    path = write(tmp_path / "a.json", [record(0, eventTime="1772120912159")])
    config = settings(path, labels="none", label_field="", label_patterns=())
    (chunk,) = SOURCE.reader.stream(config, Inputs(path, labelled=False), SOURCE.schema(config, None))
    assert chunk.meta["start"].to_list() == [1772120912 // 300 * 300]


def test_a_record_beyond_all_patience_makes_a_second_row(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    write(tmp_path / "1.json", [record(0), record(3000)])
    write(tmp_path / "2.json", [record(10), record(3001)])
    config = settings(tmp_path)
    parts = list(stream_features(config, tmp_path, SOURCE.schema(config, None)))
    assert list(pd.concat([meta for meta, _ in parts])["events"]) == [1, 1, 2]
    assert "1 records came more than 900 s late" in caplog.text


def test_records_of_neither_class_are_not_learned_from_and_are_scored(tmp_path: Path) -> None:
    def kept(*rules: str) -> list[float]:
        events = features_of(settings(path, label_ignored=rules))["events"]
        return sorted(np.expm1(events).round().tolist())

    records = [record(second, user="AIDAALICE") for second in range(3)]
    records += [record(second, user="AIDABOB", userAgent="a Terraform b") for second in range(5)]
    records += [record(second, user="AIDABOB", name="Decrypt", service="kms") for second in range(2)]
    path = write(tmp_path / "a.json", records)
    assert kept() == [3, 7]
    assert kept("userAgent=*terraform*") == [2, 3]
    assert kept("userAgent=*terraform*", "eventName=Decrypt") == [3]
    assert kept("userIdentity.userName=AIDABOB & eventName=Decrypt") == [3, 5]  # both must hold
    assert kept("userIdentity.userName=AIDAALICE & eventName=Decrypt") == [3, 7]
    assert kept("userIdentity.type=IAMUser & noSuchField=x") == [3, 7]  # a field that is not there matches nothing
    config = settings(path, label_ignored=("userAgent=*terraform*", "eventName=Decrypt"))
    [(meta, _)] = stream_features(config, path, cloudtrail.schema(config, Inputs(path)))
    assert sorted(meta["events"]) == [3, 7]


def test_three_tenants_share_the_real_records_and_are_tested_on_later_ones(invictus_folder: Path) -> None:
    config = settings(invictus_folder, window_minutes=1, test_fraction=0.3)
    parts = [SOURCE.client_table(config, client) for client in range(3)]
    test = SOURCE.test_table(config)
    starts = np.concatenate([part.starts for part in parts if part.starts is not None])
    assert test.starts is not None
    assert starts.max() < test.starts.min()
    assert (sum(map(len, parts)), len(test)) == (59, 27)
    assert (sum(int(part.labels.sum()) for part in parts), int(test.labels.sum())) == (26, 13)
    assert np.isfinite(load_client_data(config, 0).train.features).all()


def test_the_ready_settings_fit_the_real_records(invictus_folder: Path) -> None:
    config = load_config(ROOT / "config/cloudtrail.yaml").replace(data_path=str(invictus_folder))
    assert feature_count(config) == config.num_features
    for client in range(config.num_clients):
        data = load_client_data(config, client)
        assert 0 < data.train.labels.mean() < 1
    assert 0 < load_test_data(config).labels.mean() < 1
    # 156 calls of the attacks and 468 records of ordinary work; the attack tool's others are in neither class.
    assert round(float(np.expm1(features_of(config)["events"]).sum())) == 156 + 468


def test_the_techniques_of_stratus_are_read(stratus_folder: Path) -> None:
    chunk = read(settings(stratus_folder, label_field="eventID", label_patterns=("*",)))
    assert chunk.meta["events"].sum() == 310
    assert (chunk.families == "attack").all()
