"""The page that shows a run while it goes on: what it shows, that nothing in it acts, that no reader holds it up."""

import json
import threading
from pathlib import Path
from typing import Any

import pytest

from orchestrator.eyes import pages
from orchestrator.eyes.live import LivePage
from orchestrator.observers import Asked
from orchestrator.run_folder import RunFolder
from orchestrator.seats import Seats
from shared.config import Config
from shared.exchange import Kind
from tests.browser import Parsed, find_browser
from tests.devtools import Browser
from tests.federations import make_tenants, open_in_memory
from tests.run_folders import NAME, example_rounds
from tests.watching import ATTACK, Listener, get, open_hostile, watched_settings

PHONE, DESKTOP = 390, 1280


def settings(folder: Path, **changes: Any) -> Config:
    return watched_settings(folder, metrics_address="", **changes)


def page_of(folder: Path, config: Config) -> LivePage:
    return LivePage(config, RunFolder(folder / NAME), Seats("run", "session"))


def test_the_page_shows_the_run_and_what_a_tenant_says_does_nothing(tmp_path: Path) -> None:
    config = settings(tmp_path)
    run = open_hostile(config)
    run.coordinator.run()
    status, headers, page = get(config.live_address, "/")
    run.close()
    assert status == 200
    policy = headers["Content-Security-Policy"]
    assert "default-src 'none'" in policy
    assert "script-src 'self'" in policy
    assert "frame-ancestors 'none'" in policy
    parsed = Parsed(page)
    assert [attributes for tag, attributes in parsed.tags if tag == "script"] == [{"src": "live.js", "defer": None}]
    assert not [attributes for _, attributes in parsed.tags if any(name.startswith("on") for name in attributes)]
    assert "<script>document.title='taken over'</script>" in parsed.text
    assert "{{ 7 * 7 }}" in parsed.text
    assert "\u202e" not in page
    assert f"Run {run.folder.name}, live" in parsed.text
    assert f"{run.coordinator.records[-1].roc_auc:.3f}" in parsed.text
    assert "All rounds are run, 2 of at most 2" in parsed.text


def test_every_file_of_the_page_is_there_and_comes_from_here(tmp_path: Path) -> None:
    config = settings(tmp_path)
    page = page_of(tmp_path, config)
    try:
        parsed = Parsed(get(config.live_address, "/")[2])
        named = [a.get("src") or a.get("href") for tag, a in parsed.tags if tag in ("script", "link", "img")]
        assert named == ["data:,", "style.css", "live.css", "live.js"]
        for name in named[1:]:
            assert get(config.live_address, f"/{name}")[0] == 200
        assert get(config.live_address, "/", Host="attacker.example")[0] == 421
        assert get(config.live_address, "/../live.py")[0] == 404
    finally:
        page.close()


def test_a_reader_is_told_of_each_step_and_of_the_end(tmp_path: Path) -> None:
    config = settings(tmp_path)
    page = page_of(tmp_path, config)
    listener = Listener(config.live_address)
    events = listener.events()
    name, first = next(events)
    assert name == "message"
    assert "Waiting for clients" in first["moment"]
    page.began([])
    page.asked(Asked(Kind.TRAIN, 1, Kind.TRAIN, 3))
    page.left_out(Kind.TRAIN, "2", ATTACK)
    parts: dict[str, str] = {}
    while "Round 1 of 2: 3 clients train" not in parts.get("moment", ""):
        _, parts = next(events)
    while "taken over" not in parts["moment"]:
        _, parts = next(events)
    assert "<script" not in parts["moment"]
    assert "rounds" not in parts, "the charts are sent with a new round alone"
    page.committed(example_rounds(1)[0])
    while "rounds" not in parts:
        _, parts = next(events)
    assert "<svg" in parts["rounds"]
    assert "taken over" not in parts["moment"], "it is a new round"
    page.ended()
    page.close()
    rest = list(events)
    listener.close()
    assert rest[-1] == ("done", {})
    assert "All rounds are run" in rest[-2][1]["moment"]


def test_readers_that_never_read_do_not_hold_up_the_round(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("orchestrator.eyes.live._BETWEEN_SECONDS", 0.0)
    big = "x" * 5_000_000  # more than the sockets' buffers take: whoever writes it to a reader that hangs stands still
    monkeypatch.setattr(LivePage, "_moment", lambda *_: big)
    config = settings(tmp_path, num_rounds=3)
    run = open_in_memory(config, make_tenants(config))
    hanging = [Listener(config.live_address, reads=False) for _ in range(4)]
    listener = Listener(config.live_address)
    threads = [t for t in threading.enumerate() if "process_request_thread" in t.name]
    run.coordinator.run()
    assert len(run.coordinator.records) == 3
    assert sum(thread.is_alive() for thread in threads) >= 4, "they did not hang: this shows nothing"
    assert len(next(listener.events())[1]["moment"]) == len(big), "another one reads all the same"
    run.close()
    for reader in (*hanging, listener):
        reader.close()


def test_there_are_only_so_many_readers(tmp_path: Path) -> None:
    config = settings(tmp_path)
    page = page_of(tmp_path, config)
    try:
        readers = [Listener(config.live_address) for _ in range(pages.MOST_READERS)]
        assert {reader.head for reader in readers} == {"HTTP/1.0 200 OK\r\n"}
        status, headers, _ = get(config.live_address, "/")
        assert (status, headers["Retry-After"]) == (503, "5")
        for reader in readers:
            reader.close()
    finally:
        page.close()


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Any:
    if find_browser() is None:
        pytest.skip("no Chromium on this machine: apt-get install chromium")
    with Browser(tmp_path_factory.mktemp("browser")) as opened:
        yield opened


WIDE = """[...document.querySelectorAll("body *")].filter((e) => !e.closest(".scroll *")
  && e.getBoundingClientRect().right > innerWidth + 0.5).map((e) => e.tagName + "." + e.className)"""


@pytest.mark.parametrize(
    ("width", "dark"),
    [
        pytest.param(PHONE, True, id="phone-dark"),
        pytest.param(DESKTOP, False, id="desktop-light"),
        pytest.param(PHONE, False, id="phone-light", marks=pytest.mark.long),
        pytest.param(DESKTOP, True, id="desktop-dark", marks=pytest.mark.long),
    ],
)
def test_in_a_browser(width: int, dark: bool, browser: Browser, tmp_path: Path) -> None:
    config = settings(tmp_path, num_rounds=9)
    page = page_of(tmp_path, config)
    records = example_rounds(4, clients=5, skipped=[3])
    records[1].failed = {"4": ATTACK, "3": "lost: " + "an address without a space".replace(" ", "_") * 9}
    browser.console.clear()
    browser.requests.clear()
    try:
        page.began(records)
        browser.show(f"http://{config.live_address}/", width, dark=dark)
        browser.wait_until("document.getElementById('state')?.textContent === 'live'")
        page.asked(Asked(Kind.TRAIN, 5, Kind.TRAIN, 5))
        page.answered(Asked(Kind.TRAIN, 5, Kind.TRAIN, 5))
        page.left_out(Kind.TRAIN, "4", ATTACK)
        browser.wait_until("document.body.textContent.includes('1 of 5')")
        browser.wait_until("document.querySelector('h1').textContent === 'Round 5 of 9: 5 clients train'")
        browser.wait_until("document.querySelector('.notes')?.textContent.includes('taken over')")
        page.committed(example_rounds(5)[4])
        browser.wait_until("document.querySelector('h1').textContent === 'Round 6 of 9 begins'")
        assert browser.value("innerWidth") == width
        assert browser.value("document.documentElement.scrollWidth") <= width
        assert browser.value(WIDE) == []
        assert browser.value("document.title") == "Round 6 of 9 begins"
        assert browser.value("document.querySelectorAll('#rounds svg').length") >= 4
        ground = browser.value("getComputedStyle(document.body).backgroundColor")
        assert (ground == "rgb(18, 22, 28)") is dark
        # A script that did get into the page would not be run.
        browser.value("document.body.insertAdjacentHTML('beforeend', '<img src=x onerror=\"window.taken = 1\">')")
        page.ended()
        page.close()
        browser.wait_until("document.getElementById('state').textContent.startsWith('the server has ended')")
        assert browser.value("window.taken") is None
    finally:
        page.close()
    assert all(
        address.startswith(f"http://{config.live_address}/") for address in browser.requests if address != "data:,"
    )
    assert [
        text
        for text in browser.console
        if "onerror" not in text and "img-src" not in text and "inline event" not in text
    ] == []


def test_the_words_for_what_is_going_on(tmp_path: Path) -> None:
    config = settings(tmp_path, num_rounds=3)
    page = page_of(tmp_path, config)
    seen = []

    def now() -> None:
        moment = page.moment()
        seen.append((moment.round, moment.doing()))

    page.began([])
    now()
    page.asked(Asked(Kind.STATISTICS, 1, Kind.STATISTICS, 3))
    now()
    assert page.moment().seconds_left() is None
    for sum_of, kind in ((Kind.TRAIN, Kind.ADVERTISE), (Kind.TRAIN, Kind.TRAIN), (Kind.EVALUATE, Kind.EVALUATE)):
        page.asked(Asked(sum_of, 1, kind, 3))
        now()
    for _ in range(3):
        page.answered(Asked(Kind.EVALUATE, 1, Kind.EVALUATE, 3))
    now()
    records = example_rounds(3)
    page.committed(records[0])
    now()
    left = page.moment().seconds_left()
    assert left == pytest.approx(8.0, abs=2.0), "two rounds, which take four seconds each"
    page.committed(records[1])
    page.committed(records[2])
    page.ended()
    now()
    page.close()
    assert seen == [
        (1, "waiting for clients"),
        (1, "before round 1: 3 clients add up the statistics of their features"),
        (1, "round 1 of 3: 3 clients agree on masks"),
        (1, "round 1 of 3: 3 clients train"),
        (1, "round 1 of 3: 3 clients evaluate the new model"),
        (1, "round 1 of 3: the orchestrator is at work"),
        (2, "round 2 of 3 begins"),
        (3, "all rounds are run, 3 of at most 3"),
    ]


def test_sums_of_groups_side_by_side_are_asked_as_one(tmp_path: Path) -> None:
    page = page_of(tmp_path, settings(tmp_path))
    page.began([])
    first, second = Asked(Kind.TRAIN, 1, Kind.TRAIN, 3), Asked(Kind.TRAIN, 1, Kind.TRAIN, 4)
    page.asked(first)
    page.asked(second)
    page.answered(first)
    assert page.moment().doing() == "round 1 of 2: 7 clients train"
    for _ in range(6):
        page.answered(second)
    page.asked(first)  # anew, as nobody of before is waited for
    moment = page.moment()
    page.close()
    assert moment.asked == first
    assert moment.answered == 0


def test_what_is_sent_is_json_whatever_is_in_it(tmp_path: Path) -> None:
    config = settings(tmp_path)
    page = page_of(tmp_path, config)
    page.left_out(Kind.TRAIN, "0", "\r\n\r\nevent: done\r\ndata: {}\r\n\r\n" + json.dumps({"a": 1}))
    listener = Listener(config.live_address)
    name, parts = next(listener.events())
    page.close()
    listener.close()
    assert (name, list(parts)) == ("message", ["moment", "rounds"])
