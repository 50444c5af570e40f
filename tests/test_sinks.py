"""Places that take alerts: what is sent, what counts as taken, and every way in which they misbehave."""

import json
import os
import ssl
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from client import delivery
from client.delivery import Delivery
from client.follow_state import FollowState
from client.outbox import Outbox
from client.sinks import http
from client.sinks.elasticsearch import Elasticsearch
from client.sinks.lines import LinesFile, add_lines
from client.sinks.options import sinks_of
from client.sinks.sink import Alert, Outcome, Sink
from orchestrator.pki import provision
from shared.errors import ConfigError
from tests.sink_servers import (
    Reply,
    Server,
    answer_bulk,
    bulk,
    close_at_once,
    close_in_the_middle,
    document_ids,
    drip,
    hang,
    saying,
    serving,
    splunk,
    values,
    webhook,
)

SECRET = "s3cr3t-of-the-test"
USUAL: dict[str, Reply] = {"splunk": splunk, "elasticsearch": bulk, "webhook": webhook}


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for variable in ("SPLUNK_TOKEN", "ELASTICSEARCH_API_KEY", "WEBHOOK_TOKEN"):
        monkeypatch.setenv(variable, SECRET)
    monkeypatch.setattr(delivery, "FIRST_PAUSE", 0.0)
    monkeypatch.setattr(http, "READ_SECONDS", 0.5)
    monkeypatch.setattr(http, "CONNECT_SECONDS", 1.0)


@pytest.fixture(params=USUAL)
def server(request: pytest.FixtureRequest) -> Iterator[Server]:
    with serving(USUAL[request.param]) as found:
        found.kind = request.param  # type: ignore[attr-defined]
        yield found


def sink_of(server: Server, kind: str) -> Sink:
    (sink,) = sinks_of([f"{kind}={server.url}{'/alerts' if kind == 'elasticsearch' else ''}"], allow_http=False)
    return sink


class Way:
    """An outbox with one sink, in a folder."""

    def __init__(self, folder: Path, sink: Sink) -> None:
        self.state = FollowState(folder / "state")
        self.outbox = Outbox(self.state, [sink.name])
        self.dead = folder / "dead.jsonl"
        self.delivery = Delivery(sink, self.outbox, self.dead)

    def put(self, count: int, first: int = 0) -> list[str]:
        ids = [f"id-{number}" for number in range(first, first + count)]
        with self.state.transaction():
            self.outbox.put(1, [(name, json.dumps({"time": 1_000, "of": name}).encode()) for name in ids])
        return ids

    @property
    def waiting(self) -> int:
        return self.outbox.waiting(self.delivery.sink.name)


@pytest.fixture
def way(tmp_path: Path, server: Server) -> Iterator[Way]:
    found = Way(tmp_path, sink_of(server, server.kind))  # type: ignore[attr-defined]
    yield found
    found.state.close()


def test_every_alert_arrives_once_in_batches_with_its_id(server: Server, way: Way) -> None:
    ids = way.put(1_200)
    assert way.put(1_200) == ids, "found again: already on its way"
    way.delivery.run()
    assert server.taken == ids
    assert len(server.requests) == 12
    assert way.waiting == 0
    way.put(1_200)
    way.delivery.run()
    assert server.taken == ids, "found again: already sent"
    if way.delivery.sink.name == "elasticsearch":
        assert values(server.requests[0][2])[1] == {"@timestamp": 1_000, "time": 1_000, "of": "id-0"}
    (headers,) = {
        json.dumps(sorted((k, v) for k, v in h.items() if k == "Authorization")) for _, h, _ in server.requests
    }
    assert SECRET in headers
    assert SECRET not in way.delivery.sink.where


# What each of these does, none of it takes an alert; the way goes on after it, and nothing is lost or sent twice.
TROUBLES = {
    "busy": saying(429, b"slow down"),
    "down": saying(503),
    "broken": saying(500, b"\xff\xfe garbage"),
    "refuses the sender": saying(401),
    "redirects": saying(307, Location="http://127.0.0.1:9/"),
    "nowhere": saying(404),
    "hangs": hang,
    "closes at once": close_at_once,
}
# A webhook's success is its status; of the others it is what they say.
MISLEADING = {
    "a page of a proxy with status 200": saying(200, b"<html>please log in</html>"),
    "no body": saying(200),
    "JSON of another kind": saying(200, b"[]"),
    "success by another word": saying(200, b'{"code": false, "items": []}'),
    "deep JSON": saying(200, b"[" * 100_000),
}
BREAKING_OFF = {"closes in the middle": close_in_the_middle, "never ends": drip}


@pytest.mark.parametrize("trouble", [*TROUBLES, *MISLEADING, *BREAKING_OFF])
def test_in_trouble_alerts_are_kept_and_arrive_later(server: Server, way: Way, trouble: str) -> None:
    if trouble in MISLEADING and way.delivery.sink.name == "webhook":
        return  # told in docs/scoring.md
    if trouble == "never ends" and way.delivery.sink.name != "splunk":
        return  # an answer's deadline is of HTTP, whatever the sink
    server.planned.append((TROUBLES | MISLEADING | BREAKING_OFF)[trouble])
    ids = way.put(3)
    way.delivery.run()
    if way.waiting:  # it stops at the first trouble where there is a pause
        way.delivery.run()
    assert server.taken == ids
    assert way.waiting == 0
    assert len(server.requests) == 2
    assert not way.dead.exists()


def test_a_pause_doubles_and_retry_after_is_honoured(server: Server, way: Way, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(delivery, "FIRST_PAUSE", 8.0)
    way.put(1)
    pauses = []
    for _ in range(8):
        server.planned.append(saying(503))
        way.delivery._not_before = 0.0
        way.delivery.run()
        pauses.append(way.delivery.pause())
    assert all(4 * 2**n - 1 < pause <= 8 * 2**n for n, pause in enumerate(pauses[:5]))
    assert pauses[-1] <= delivery.LONGEST_PAUSE
    before = len(server.requests)
    way.delivery.run()
    assert len(server.requests) == before, "it is left alone for the pause"
    asked = {"1000": (900, 1000), "99999999999": (3000, 3600), "9" * 5000: (0, 300), "soon": (0, 300), "-1": (0, 300)}
    for after, (low, high) in asked.items():
        server.planned.append(saying(429, Retry_After=after))
        way.delivery._not_before = 0.0
        way.delivery.run()
        assert low <= way.delivery.pause() <= high
    way.delivery._not_before = 0.0
    way.delivery.run()
    assert way.waiting == 0


def refusing(poison: set[str], usual: Reply, kind: str) -> Reply:
    """The whole batch is refused where one of these is in it."""

    def reply(handler: Any, body: bytes) -> None:
        if kind == "splunk":
            names = [event["fields"]["finding_id"] for event in values(body)]
        elif kind == "elasticsearch":
            names = document_ids(body)
        else:
            names = [item["id"] for item in json.loads(body)["findings"]]
        if poison & set(names):
            handler.answer(400, b'{"text":"Invalid data format","code":6}')
        else:
            usual(handler, body)

    return reply


def test_one_bad_alert_of_a_batch_is_put_aside_and_no_other(server: Server, way: Way) -> None:
    kind = way.delivery.sink.name
    poison = {"id-0", "id-300", "id-301", "id-999"}
    server.usual = refusing(poison, USUAL[kind], kind)
    ids = way.put(1_000)
    way.delivery.run()
    assert sorted(server.taken) == sorted(set(ids) - poison)
    assert not server.twice
    dead = [json.loads(line) for line in way.dead.read_text().splitlines()]
    assert {letter["id"] for letter in dead} == poison
    assert len(dead) == 4
    assert all(letter["reason"].startswith("HTTP 400") and letter["finding"]["of"] == letter["id"] for letter in dead)
    assert way.dead.stat().st_mode & 0o077 == 0
    assert way.waiting == 0
    assert len(server.requests) < 120


def test_elasticsearch_that_answers_200_with_errors(tmp_path: Path) -> None:
    """Only what an item says of an alert counts: of four alerts, one is busy, one malformed, one there already."""
    with serving(bulk) as server:
        way = Way(tmp_path, sink_of(server, "elasticsearch"))
        server.planned.append(lambda handler, body: answer_bulk(handler, body, {1: 429, 2: 400, 3: 409}))
        ids = way.put(4)
        way.delivery.run()
        if way.waiting:
            way.delivery.run()
        assert server.taken == ids[:2]
        (letter,) = [json.loads(line) for line in way.dead.read_text().splitlines()]
        assert letter["id"] == ids[2]
        assert document_ids(server.requests[1][2]) == [ids[1]], "what was taken is not sent again"
        assert way.waiting == 0
        way.state.close()


class _TrustsTheStatus(Elasticsearch):
    """The broken twin: takes status 200 for success."""

    def send(self, batch: Sequence[Alert], mark: str) -> Outcome:
        super().send(batch, mark)
        return Outcome(frozenset(alert.id for alert in batch))


def test_a_sink_that_trusts_the_status_loses_alerts(tmp_path: Path) -> None:
    with serving(bulk) as server:
        way = Way(tmp_path, _TrustsTheStatus("elasticsearch", f"{server.url}/alerts", "", ""))
        server.planned.append(lambda handler, body: answer_bulk(handler, body, {1: 429}))
        way.put(3)
        way.delivery.run()
        assert way.waiting == 0
        assert "id-1" not in server.taken
        way.state.close()


@pytest.mark.parametrize("code", [7, 10, 11])
def test_what_is_the_tokens_fault_condemns_no_alert(tmp_path: Path, code: int) -> None:
    with serving(splunk) as server:
        way = Way(tmp_path, sink_of(server, "splunk"))
        server.planned.append(saying(400, json.dumps({"text": "of the token", "code": code}).encode()))
        way.put(1)
        way.delivery.run()
        way.delivery.run()
        assert server.taken == ["id-0"]
        assert not way.dead.exists()
        way.state.close()


def test_a_redirect_takes_no_secret_elsewhere(tmp_path: Path) -> None:
    with serving(webhook) as elsewhere, serving(saying(307, Location=f"{elsewhere.url}/")) as server:
        way = Way(tmp_path, sink_of(server, "webhook"))
        way.put(1)
        server.planned += [saying(301, Location=f"{elsewhere.url}/")]
        outcome = way.delivery.sink.send(way.outbox.next("webhook", 1, 1), "")
        assert "HTTP 301" in outcome.problem
        assert not elsewhere.requests
        way.state.close()


def test_a_certificate_of_nobody_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    provision(tmp_path / "pki", 0, [])
    with serving(splunk) as server:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(tmp_path / "pki" / "server.pem", tmp_path / "pki" / "server.key")
        server.socket = context.wrap_socket(server.socket, server_side=True)
        option, alert = f"splunk={server.url.replace('http', 'https')}", Alert(1, "id", b'{"time": 1}')
        (sink,) = sinks_of([option], allow_http=False)
        assert "CERTIFICATE_VERIFY_FAILED" in sink.send([alert], "").problem
        assert not server.requests
        monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "pki" / "ca.pem"))
        (sink,) = sinks_of([option], allow_http=False)
        assert sink.send([alert], "").accepted == {"id"}, "of an authority that its user trusts"


@pytest.mark.parametrize(
    ("option", "variables", "told"),
    [
        ("splunk=https://splunk:8088", {"SPLUNK_TOKEN": ""}, "SPLUNK_TOKEN is not set"),
        ("splunk-eu=https://splunk:8088", {}, "SPLUNK_EU_TOKEN is not set"),
        ("splunk=https://splunk:8088", {"SPLUNK_TOKEN": f"{SECRET}\n"}, "SPLUNK_TOKEN: holds a line break"),
        ("splunk=https://splunk:8088", {"SPLUNK_TOKEN": f"{SECRET}\r\nX: y"}, "SPLUNK_TOKEN: holds a line break"),
        ("splunk=http://splunk:8088", {}, "--allow_insecure_sink"),
        ("splunk=http://127.0.0.1.example.com:8088", {}, "--allow_insecure_sink"),
        (f"splunk=https://user:{SECRET}@splunk:8088", {}, "a user or a password in it"),
        ("splunk=ftp://splunk", {}, "no URL"),
        ("splunk=https://splunk:99999", {}, "no URL"),
        ("splunk=https://splunk:8088/a b", {}, "a blank in it"),
        ("splunk", {}, "no URL"),
        ("pager=https://pager", {}, "expected NAME=PLACE"),
        ("webhook", {}, "WEBHOOK_URL is not set"),
        ("elasticsearch=https://es:9200", {}, "names no index"),
        (
            "elasticsearch=https://es:9200/a",
            {"ELASTICSEARCH_API_KEY": "", "ELASTICSEARCH_USERNAME": "u"},
            "set both ELASTICSEARCH_USERNAME and ELASTICSEARCH_PASSWORD",
        ),
        ("file", {}, "names no file"),
        ("file=/nowhere/alerts.jsonl", {}, "its folder is not there"),
        ("file=/tmp", {}, "is no file"),
    ],
)
def test_options_that_are_refused(
    option: str, variables: dict[str, str], told: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(ConfigError) as refusal:
        sinks_of([option], allow_http=False)
    assert told in str(refusal.value)
    assert SECRET not in str(refusal.value)


def test_options_that_are_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WEBHOOK_PAGER_TOKEN", "")
    monkeypatch.setenv("WEBHOOK_PAGER_URL", f"https://hooks.example.com/services/{SECRET}")
    options = ["webhook", "webhook-pager", "splunk=http://splunk:8088"]
    monkeypatch.setenv("WEBHOOK_URL", "https://example.com")
    sinks = sinks_of(options, allow_http=True)
    assert [sink.name for sink in sinks] == ["webhook", "webhook-pager", "splunk"]
    assert sinks[1].where == "https://hooks.example.com", "the path of a webhook may be its secret"
    with pytest.raises(ConfigError, match="given twice"):
        sinks_of(["webhook", "webhook=https://example.com"], allow_http=False)


def test_lines_of_a_process_that_died_while_it_wrote_are_there_once(tmp_path: Path) -> None:
    path = tmp_path / "alerts.jsonl"
    mark = add_lines(path, b"one\ntwo\n", "")
    whole = b"three\nfour\nfive\n"
    for cut in range(len(whole) + 1):
        path.write_bytes(b"one\ntwo\n" + whole[:cut])
        later = add_lines(path, whole, mark)
        assert path.read_bytes() == b"one\ntwo\n" + whole
        assert json.loads(later)["end"] == 8 + len(whole)
    path.write_bytes(b"one\ntwo\n" + whole)
    later = add_lines(path, whole[:6], mark)  # now in smaller batches
    add_lines(path, whole[6:], later)
    assert path.read_bytes() == b"one\ntwo\n" + whole


def test_lines_of_others_stay(tmp_path: Path) -> None:
    path = tmp_path / "alerts.jsonl"
    path.write_bytes(b"of an earlier scoring\n")
    mark = add_lines(path, b"one\n", "")
    with path.open("ab") as file:
        file.write(b"a note, cut o")
    mark = add_lines(path, b"two\n", mark)
    assert path.read_bytes() == b"of an earlier scoring\none\na note, cut o\ntwo\n"
    os.rename(path, tmp_path / "alerts.1")  # noqa: PTH104 (as logrotate does)
    mark = add_lines(path, b"three\n", mark)
    assert path.read_bytes() == b"three\n"
    path.write_bytes(b"")  # copytruncate
    add_lines(path, b"four\n", mark)
    assert path.read_bytes() == b"four\n"


def test_a_full_disk_is_trouble_and_not_the_end(tmp_path: Path) -> None:
    path = tmp_path / "alerts.jsonl"
    way = Way(tmp_path, LinesFile("file", path))
    way.put(2)
    path.mkdir()
    way.delivery.run()
    assert way.waiting == 2
    assert "can't be written" in way.delivery.problem
    path.rmdir()
    way.delivery.run()
    assert len(path.read_text().splitlines()) == 2
    way.state.close()
