"""`client/score.py --follow` as a person starts it: an S3 server, a folder, Splunk and Elasticsearch, and kill -9."""

import json
import os
import random
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.flow_tables import table, train_on_flows
from tests.object_store import bucket
from tests.processes import ROOT
from tests.sink_servers import Server, bulk, close_at_once, close_in_the_middle, saying, serving, splunk, values

pytestmark = pytest.mark.long
LONGEST = 120.0  # seconds until what was found must be there; nothing is measured by it


@contextmanager
def score(environment: Mapping[str, str], printed: Path, *arguments: str) -> Iterator[subprocess.Popen[bytes]]:
    """A process of the script; killed at the end if it is there."""
    with printed.open("ab") as output:
        process = subprocess.Popen(
            [sys.executable, "client/score.py", *arguments], cwd=ROOT, stdout=output, stderr=output,
            env={**os.environ, **environment, "OMP_NUM_THREADS": "1"},
        )  # fmt: skip
    try:
        yield process
    finally:
        process.kill()
        process.wait()


def attacks(rows: int) -> int:
    return len(range(0, rows, 4))


def settle(server: Server, wanted: int, process: subprocess.Popen[bytes], printed: Path) -> None:
    """Wait until a server has so many alerts."""
    end = time.monotonic() + LONGEST
    while len(set(server.taken)) < wanted:
        assert process.poll() is None, printed.read_text()
        assert time.monotonic() < end, printed.read_text()
        time.sleep(0.1)


@pytest.mark.timeout(900)
@pytest.mark.parametrize("seed", [1, 2])
def test_killed_at_random_nothing_is_lost_or_taken_twice(tmp_path: Path, seed: int) -> None:
    """New, late, replaced and growing logs in a store and a folder, while followers are killed and sinks misbehave."""
    chance = random.Random(seed)
    (tmp_path / "run").mkdir()
    train_on_flows(tmp_path / "run")
    logs, printed, output = tmp_path / "logs", tmp_path / "printed", tmp_path / "alerts.jsonl"
    logs.mkdir()
    with bucket() as store, serving(splunk) as hec, serving(bulk) as index:
        arguments = [
            "--model", str(tmp_path / "run"), "--input", "s3://logs/tenant", str(logs), "--follow", "--poll", "0.1",
            "--settle", "0.2", "--state", str(tmp_path / "state"), "--output", str(output),
            "--sink", f"splunk={hec.url}", "--sink", f"elasticsearch={index.url}/alerts",
        ]  # fmt: skip
        environment = {**store.environment, "SPLUNK_TOKEN": "of-the-test"}
        rows, growing, kills = 0, 0, 0
        for round_number in range(8):
            for _ in range(3):
                # Names run backwards, so that each object is late by its name.
                store.put(f"tenant/{900 - rows // 100:03}.csv", table(range(rows, rows + 100)))
                (logs / f"{rows}.csv").write_bytes(table(range(rows + 100, rows + 200)))
                rows += 200
            growing += 50
            store.put("tenant/replaced.csv", table(range(100_000, 100_000 + growing)))
            (logs / "growing.csv").write_bytes(table(range(200_000, 200_000 + growing)))
            for server in (hec, index):
                server.planned[:] = chance.sample([saying(503), saying(429), close_at_once, close_in_the_middle], 2)
            with score(environment, printed, *arguments) as process:
                if round_number < 7:
                    # Half of the time while it loads or reads, half of the time while it sends.
                    if chance.random() < 0.5:
                        time.sleep(chance.uniform(0.0, 12.0))
                    else:
                        settle(hec, len(set(hec.taken)) + chance.randint(1, 30), process, printed)
                    kills += process.poll() is None
                    continue
                hec.planned.clear()
                index.planned.clear()
                wanted = attacks(rows) + 2 * attacks(growing)
                settle(hec, wanted, process, printed)
                settle(index, wanted, process, printed)
        assert kills == 7
        with score(environment, printed, *[argument for argument in arguments if argument != "--follow"]) as process:
            assert process.wait(LONGEST) == 0, printed.read_text()
        ids = [json.loads(line)["metadata"]["uid"] for line in output.read_text().splitlines()]
        assert len(set(ids)) == len(ids) == wanted
        assert sorted(index.taken) == sorted(ids)
        assert set(hec.taken) == set(ids)
        check_copies(hec)
        print(f"seed {seed}: {wanted} alerts, {len(hec.requests)} requests, {len(hec.twice)} ids twice at Splunk")


def check_copies(server: Server) -> None:
    """An id comes again only in a batch whose answer was not recorded, and then as the same event, byte for byte."""
    events: dict[str, str] = {}
    for _, _, body in server.requests:
        for event in values(body):
            text = json.dumps(event, sort_keys=True)
            assert events.setdefault(event["fields"]["finding_id"], text) == text
