"""OCSF events as JSON lines and as Amazon Security Lake's Parquet: classes, principals, outcomes, memory and damage."""

import json
import logging
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.dataset as ds
import pyarrow.parquet as pq
import pytest

from client.scoring import score_files
from orchestrator.simulation import simulate
from shared.bundle import ModelBundle
from shared.config import load_config, parse_config
from shared.data_sources import cloudtrail, ocsf, ocsf_parquet, vpc_flow
from shared.data_sources.source_types import Inputs
from shared.errors import ConfigError, DataError
from tests import audit_events as make
from tests.audit_events import START, Event
from tests.processes import ROOT
from tests.source_files import named_features, read_chunks, settings_of, write_json_lines

FOLDERS = "aws/CLOUD_TRAIL_MGMT/2.0/region=eu-central-1/accountId=012345678901/eventDay=20260105"


settings = partial(settings_of, "ocsf", labels="none", num_features=31, max_broken_share=0.0)
read = partial(read_chunks, ocsf, labelled=False)
table = partial(named_features, ocsf, labelled=False)


def lake(folder: Path, events: list[Event], name: str = "a.gz.parquet", **options: Any) -> Path:
    """The events in a file of a Security Lake, whose path is returned."""
    path = folder / FOLDERS / name
    path.parent.mkdir(parents=True, exist_ok=True)
    names = dict.fromkeys(name for event in events for name in event)
    rows = [{name: event.get(name) for name in names} for event in events]
    pq.write_table(pa.Table.from_pylist(rows), path, **({"compression": "zstd"} | options))
    return path


def some_events() -> list[Event]:
    return [
        *(make.api_activity(second) for second in range(0, 600, 60)),
        *(make.api_activity(600 + n, actor__user__uid_alt="AIDAJOE", status_id=2, activity_id=4) for n in range(3)),
        *(make.authentication(second, status_id=1 + second % 2) for second in range(4)),
    ]


def test_parquet_and_json_give_the_same_rows(tmp_path: Path) -> None:
    by_lines = table(settings(write_json_lines(tmp_path / "a.jsonl", some_events())))
    lake(tmp_path / "lake", some_events()[:8])
    lake(tmp_path / "lake", some_events()[8:], "b.parquet")
    by_lake = table(settings(tmp_path / "lake"))
    pd.testing.assert_frame_equal(by_lake, by_lines)
    assert len(by_lines) == 2 + 1 + 1  # Jane in two windows


def test_the_folders_of_a_lake_say_what_the_events_do_not(tmp_path: Path) -> None:
    events = [make.api_activity(second, cloud=None) for second in range(3)]
    (row,) = table(settings(lake(tmp_path, events).parent)).to_dict("records")
    assert (row["account"], row["regions"]) == ("1", pytest.approx(np.log1p(1)))  # of the user, then of the folder
    events = [make.authentication(second, cloud=None, user={"uid": "u"}) for second in range(3)]
    (row,) = table(settings(lake(tmp_path / "b", events))).to_dict("records")
    assert row["account"] == "012345678901"


@pytest.mark.parametrize(
    ("event", "error", "denied"),
    [
        (make.api_activity(), 0, 0),
        (make.api_activity(status_id=2, api__response__error="NoSuchBucket"), 1, 0),
        (make.api_activity(status_id=2, api__response__error="Client.UnauthorizedOperation"), 1, 1),
        (make.api_activity(status_id=2, api__response__code=403), 1, 1),
        (make.api_activity(status_id=99), 0, 0),
        (make.api_activity(status_id=99, status="Failure"), 1, 0),
        (make.api_activity(status_id=None, status="failed"), 1, 0),
        (make.authentication(status_id=0, status="Failure"), 1, 0),
        (make.authentication(), 0, 0),
        (make.authentication(status_id=2), 1, 0),
        (make.authentication(action_id=2), 1, 1),
    ],
)
def test_failures_and_denials(tmp_path: Path, event: Event, error: int, denied: int) -> None:
    (row,) = table(settings(write_json_lines(tmp_path / "a.jsonl", [event]))).to_dict("records")
    assert (row["error_share"], row["denied_share"]) == (error, denied)


def user(**values: Any) -> dict[str, Any]:
    return {"metadata__product": {"name": "Directory", "vendor_name": "Example"}, "actor": {"user": values}}


PAIRS: dict[str, tuple[Event, Event]] = {
    "two users of CloudTrail": (make.api_activity(), make.api_activity(actor__user__uid_alt="AIDAJOE")),
    "one name in two accounts": (
        make.api_activity(**user(name="jane", account={"uid": "1"})),
        make.api_activity(**user(name="jane", account={"uid": "2"})),
    ),
    "one name in two domains": (
        make.api_activity(**user(name="jane", domain="a")),
        make.api_activity(**user(name="jane", domain="b")),
    ),
    "one id at two vendors": (
        make.authentication(),
        make.authentication(metadata__product={"name": "Directory", "vendor_name": "Other"}),
    ),
    "a uid and a name of the same letters": (
        make.api_activity(**user(uid="x")),
        make.api_activity(**user(name="x")),
    ),
    "without a name, at two addresses": (
        make.api_activity(**user()),
        make.api_activity(**user(), src_endpoint={"ip": "203.0.113.1"}),
    ),
    "one SAML subject of two providers": (
        make.api_activity(actor={"user": {"type": "SAMLUser", "uid_alt": "x:jane"}, "idp": {"name": "a"}}),
        make.api_activity(actor={"user": {"type": "SAMLUser", "uid_alt": "x:jane"}, "idp": {"name": "b"}}),
    ),
    "a service and another": (
        make.api_activity(actor={"invoked_by": "a.amazonaws.com", "user": {"type": "AWSService"}}),
        make.api_activity(actor={"invoked_by": "b.amazonaws.com", "user": {"type": "AWSService"}}),
    ),
}


@pytest.mark.parametrize("name", PAIRS)
def test_no_two_principals_share_a_row(tmp_path: Path, name: str) -> None:
    assert len(table(settings(write_json_lines(tmp_path / "a.jsonl", list(PAIRS[name]))))) == 2


@pytest.mark.parametrize(
    "who",
    [
        {"uid": "AIDAJANE"},  # OCSF 1.0
        {"uid": "AIDAJANE", "uid_alt": "AKIAKEY"},
        {"uid": "arn:aws:iam::1:user/jane", "uid_alt": "AIDAJANE"},
    ],
)
def test_a_user_of_cloudtrail_is_one_principal_in_all_classes_and_versions(tmp_path: Path, who: dict[str, str]) -> None:
    """Security Lake has the making of a user in Account Change, beside whom it was made by."""
    user = {"actor__user": {"type": "IAMUser"} | who}
    product = {"metadata__product": {"name": "CloudTrail", "vendor_name": "AWS"}}
    made = make.api_activity(
        2, class_uid=3001, activity_id=1, api__operation="CreateUser", user={"name": "eve"}, **user
    )
    login = make.authentication(1, user=None, actor={"user": user["actor__user"]}, **product)
    (row,) = table(settings(write_json_lines(tmp_path / "a.jsonl", [make.api_activity(), login, made]))).to_dict(
        "records"
    )
    assert row["events"] == pytest.approx(np.log1p(3))
    assert row["write_share"] == pytest.approx(1 / 3)


def test_a_role_of_cloudtrail_is_one_principal_whatever_its_sessions(tmp_path: Path) -> None:
    def session(name: str) -> dict[str, Any]:
        who = {"type": "AssumedRole", "uid": f"arn:aws:sts::1:assumed-role/r/{name}", "uid_alt": f"AROAONE:{name}"}
        return {"actor__user": who}

    events = [make.api_activity(0, **session("a")), make.api_activity(1, **session("b"))]
    assert len(table(settings(write_json_lines(tmp_path / "a.jsonl", events)))) == 1


def test_calls_have_the_shares_that_cloudtrails_own_records_give(tmp_path: Path) -> None:
    """One event in both forms: what is in both schemas is the same number."""
    own = write_json_lines(tmp_path / "own.jsonl", [make.cloudtrail(second) for second in range(5)])
    config = settings(own, data_source="cloudtrail", num_features=42)
    schema = cloudtrail.schema(config, Inputs(own, labelled=False))
    (chunk,) = cloudtrail.stream(config, Inputs(own, labelled=False), schema)
    expected = dict(zip(schema.names, chunk.features[0].tolist(), strict=True))
    found = table(settings(write_json_lines(tmp_path / "a.jsonl", [make.api_activity(second) for second in range(5)])))
    both = [name for name in expected if name in found]
    assert len(both) == 13 + 16
    assert {name: found.loc[0, name] for name in both} == {name: expected[name] for name in both}


@pytest.mark.parametrize("events", ["calls", "flows"])
@pytest.mark.parametrize("form", ["lines", "lake"])
def test_other_classes_are_counted_and_named(
    tmp_path: Path, events: str, form: str, caplog: pytest.LogCaptureFixture
) -> None:
    others = [make.changed(make.network(n), {"class_uid": number}) for n, number in enumerate((4003, 4003, 9_000_001))]
    every = [make.api_activity(), make.authentication(), make.network(), *others]
    path = write_json_lines(tmp_path / "a.jsonl", every) if form == "lines" else lake(tmp_path, every)
    with caplog.at_level(logging.INFO, "data"):
        chunks, broken = read(settings(path, ocsf_events=events))
    rows = sum(int(chunk.meta["events" if events == "calls" else "flows"].sum()) for chunk in chunks)
    assert rows == (2 if events == "calls" else 1)
    assert (broken.lines, broken.broken) == (6, 0)
    assert rows + broken.left_out.total() == 6
    assert "left out 2 of 6: events of OCSF's class 4003 DNS Activity" in caplog.text
    assert "left out 1 of 6: events of OCSF's class 9000001" in caplog.text
    assert ("class 6003 API Activity" in caplog.text) == (events == "flows")
    assert ("class 4001 Network Activity" in caplog.text) == (events == "calls")


def test_classes_without_end_take_no_memory_without_end(tmp_path: Path) -> None:
    events = [{"class_uid": 5000 + number} for number in range(500)]
    _, broken = read(settings(write_json_lines(tmp_path / "a.jsonl", [make.api_activity(), *events])))
    assert len(broken.left_out) == 101
    assert broken.left_out.total() == 500


@pytest.mark.parametrize(
    "event", [{}, {"class_uid": "x"}, {"class_uid": None}, {"class_uid": -1}, {"class_uid": 10**30}, "text", 7,
              {"class_uid": 6003}, {"class_uid": 6003, "time": "soon", "api": {"operation": "x"}}]
)  # fmt: skip
@pytest.mark.parametrize("events", ["calls", "flows"])
def test_what_is_no_event_is_a_broken_line(tmp_path: Path, event: Any, events: str) -> None:
    good = make.api_activity() if events == "calls" else make.network()
    path = write_json_lines(tmp_path / "a.jsonl", [good, event])
    chunks, broken = read(settings(path, ocsf_events=events, max_broken_share=1.0))
    assert len(chunks) == 1
    # An object with nothing in it is how tools write that there is nothing.
    left_out = int(event == {} or (events == "flows" and isinstance(event, dict) and event.get("class_uid") == 6003))
    assert (broken.lines, broken.broken, broken.left_out.total()) == (2, 1 - left_out, left_out)


def test_a_lake_file_that_is_damaged_costs_itself(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    good = lake(tmp_path, some_events())
    data = good.read_bytes()
    (good.parent / "b.gz.parquet").write_bytes(data[: len(data) // 2])
    chunks, broken = read(settings(tmp_path, max_broken_share=0.5))
    assert sum(int(chunk.meta["events"].sum()) for chunk in chunks) == len(some_events())
    assert (broken.broken, broken.lines) == (1, len(some_events()) + 1)
    assert "b.gz.parquet: not a readable Parquet file after 0 events" in caplog.text
    with pytest.raises(DataError, match="1 of 18 lines are broken"):
        read(settings(tmp_path))


def decoded(read: Callable[[Path], Iterable[object]], path: Path) -> int:
    """Bytes of Arrow's that reading the first 3,000 events takes at most."""
    pool, before = pa.proxy_memory_pool(pa.default_memory_pool()), pa.default_memory_pool()
    pa.set_memory_pool(pool)
    try:
        events = iter(read(path))
        assert sum(1 for _ in islice(events, 3000)) == 3000
        del events
    finally:
        pa.set_memory_pool(before)
    return int(pool.max_memory())


def test_a_row_group_of_any_size_is_read_in_little_memory(tmp_path: Path) -> None:
    """One of 100,000 events; the twin is the reader of data sets, which decodes all of it at once."""
    some = pa.Table.from_pylist([make.api_activity(second) for second in range(1000)])
    path = tmp_path / "a.parquet"
    pq.write_table(pa.concat_tables([some] * 100).combine_chunks(), path, row_group_size=100_000, use_dictionary=False)
    whole = pq.read_table(path).nbytes

    def at_once(path: Path) -> Iterator[object]:
        for part in ds.dataset(path, format="parquet").to_batches(batch_size=1000, use_threads=False):
            yield from range(part.num_rows)

    assert decoded(ocsf_parquet.records, path) < whole / 3
    assert decoded(at_once, path) > whole / 3


def flows() -> list[Event]:
    return [
        make.network(0),
        make.network(10, src_endpoint={"ip": "192.0.2.2"}, action_id=2),
        make.network(20, traffic={"packets": 7, "bytes": 900}),
        make.network(30, src_endpoint={"ip": None}, dst_endpoint={"ip": None}, status_code="NODATA", traffic=None),
        make.network(40, connection_info={"protocol_name": "icmp"}, src_endpoint={"ip": "192.0.2.2"}),
    ]


@pytest.mark.parametrize("form", ["lines", "lake"])
def test_flows_are_those_of_a_flow_log(tmp_path: Path, form: str) -> None:
    """Rows are, to the last bit, those of the same flows as AWS writes them."""
    path = write_json_lines(tmp_path / "a.jsonl", flows()) if form == "lines" else lake(tmp_path, flows())
    config = settings(path, ocsf_events="flows", num_features=20)
    names = ocsf.schema(config, Inputs(path, labelled=False)).names
    found = read(config)
    text = [
        f"2 1 eni-0 {source} 198.51.100.1 {port} {port and 443} {protocol} {packets} {size} {START + second} "
        f"{START + second + 30} {action} OK"
        for second, source, port, protocol, packets, size, action in (
            (0, "192.0.2.1", 40000, 6, 5, 500, "ACCEPT"),
            (10, "192.0.2.2", 0, 6, 5, 500, "REJECT"),
            (20, "192.0.2.1", 40000, 6, 7, 900, "ACCEPT"),
            (40, "192.0.2.2", 0, 1, 5, 500, "ACCEPT"),
        )
    ]
    text = [line.replace(" 0 0 ", " 0 443 ") for line in text]
    log = tmp_path / "flows.log"
    log.write_text("\n".join(text))
    own = settings(log, data_source="vpc_flow", num_features=20)
    schema = vpc_flow.schema(own, Inputs(log, labelled=False))
    assert schema.names == names
    (expected,) = vpc_flow.stream(own, Inputs(log, labelled=False), schema)
    (chunk,), broken = found
    np.testing.assert_array_equal(chunk.features, expected.features)
    assert chunk.meta["source"].tolist() == ["192.0.2.1", "192.0.2.2"]
    assert broken.left_out == {"NODATA and SKIPDATA records": 1}


@pytest.mark.parametrize(
    ("changes", "share"),
    [
        ({}, 0),
        ({"action_id": 2}, 1),
        ({"disposition_id": 2}, 1),
        ({"activity_id": 5}, 1),
        ({"status_code": "REJECT"}, 1),
        ({"connection_info": {"protocol_num": -1}}, 0),
        ({"src_endpoint": {"ip": "192.0.2.1", "port": None}, "traffic": None}, 0),
    ],
)
def test_which_flows_were_refused(tmp_path: Path, changes: dict[str, Any], share: int) -> None:
    path = write_json_lines(tmp_path / "a.jsonl", [make.network(**changes)])
    (row,) = table(settings(path, ocsf_events="flows", num_features=20)).to_dict("records")
    assert row["reject_share"] == share


def test_labels_of_both(tmp_path: Path) -> None:
    path = write_json_lines(tmp_path / "a.jsonl", [make.api_activity(), make.authentication(), make.network()])
    for events, field, expected in (
        ("calls", "user.name", ["attack", "benign"]),
        ("flows", "src_endpoint.ip", ["attack"]),
    ):
        config = settings(path, labels="", label_field=field, label_patterns=("jane", "192.*"), ocsf_events=events)
        chunks, _ = read(config, labelled=True)
        assert np.concatenate([chunk.families for chunk in chunks]).tolist() == expected


def test_ignored_records_are_of_calls_alone(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="ocsf with its calls"):
        settings(tmp_path, ocsf_events="flows", label_ignored=("a=b",))


def day_of(seed: int, *, odd: bool = False) -> list[Event]:
    rng = np.random.default_rng(seed)
    events = []
    for second in range(0, 14_400, 40):
        who, what = f"AIDA{rng.integers(10):04}", ("ListBuckets", "GetObject", "HeadBucket")[rng.integers(3)]
        changes = {
            "actor__user__uid_alt": who,
            "actor__user__uid": f"arn:aws:iam::1:user/{who}",
            "api__operation": what,
        }
        events.append(make.api_activity(second, **changes))
    for second in range(14_100, 14_400) if odd else ():
        events.append(
            make.api_activity(
                second, metadata__uid=f"odd{second}", actor__user__uid_alt="AIDAMALLORY", activity_id=4, status_id=2,
                actor__user__uid="arn:aws:iam::1:user/mallory", api__operation=f"Delete{second % 30}",
                api__response__error="AccessDenied", src_endpoint__ip="203.0.113.66",
            )
        )  # fmt: skip
    return events


@pytest.mark.parametrize("events", ["calls", pytest.param("flows", marks=pytest.mark.long)])
def test_a_run_over_a_lake_without_labels_ends_in_alerts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, events: str
) -> None:
    monkeypatch.chdir(tmp_path)

    def of(seed: int, *, odd: bool = False) -> list[Event]:
        if events == "calls":
            return day_of(seed, odd=odd)
        rng = np.random.default_rng(seed)
        made = [
            make.network(second, src_endpoint={"ip": f"192.0.2.{rng.integers(10)}", "port": 40000 + second})
            for second in range(0, 14_400, 40)
        ]
        scan = [
            make.network(14_000 + n, src_endpoint={"ip": "203.0.113.66", "port": 1}, dst_endpoint={
                "ip": "198.51.100.1", "port": n}, action_id=2) for n in range(300)
        ]  # fmt: skip
        return made + scan * odd

    for client in range(3):
        lake(tmp_path / f"tenant-{client}", of(client))
    lake(tmp_path / "test", of(7))
    base = load_config(ROOT / "config/ocsf.yaml")
    config = parse_config(
        base.model_dump() | {
            "data_path": str(tmp_path / "tenant-{client_id}"), "test_path": str(tmp_path / "test"),
            "he_key_length": 512, "allow_insecure_key": True, "window_minutes": 5, "ocsf_events": events,
            "num_features": 47 if events == "calls" else 20,
        }
    )  # fmt: skip
    bundle = ModelBundle.load(simulate(config).folder)
    lake(tmp_path / "new", of(9, odd=True))
    output = tmp_path / "ranked.jsonl"
    summary = score_files(bundle, [tmp_path / "new"], output, None, top=1)
    assert (summary.ranked, summary.broken) == (1, 0)
    (found,) = [json.loads(line) for line in output.read_text().splitlines()]
    evidence = found["evidences"][0]
    if events == "calls":
        assert evidence["actor"]["user"]["name"] == "arn:aws:iam::1:user/mallory"
        assert evidence["data"]["apis"][0].startswith("s3.amazonaws.com:Delete")
    else:
        assert evidence["src_endpoint"] == {"ip": "203.0.113.66"}
        assert evidence["data"]["flows"] > 100
