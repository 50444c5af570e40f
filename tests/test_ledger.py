"""A tenant's memory: what it refuses, in memory and across restarts, and what it does with a spoilt file."""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from client import ledger
from client.ledger import Ledger
from shared.masking import ClientRound, RoundMemory, VectorPlan
from shared.masking.errors import Rule
from shared.masking.memory import Stage
from tests.breaking import breaks
from tests.masking_harness import ENROLLED, IDENTITIES, MODULUS, NAMES, SESSION, TASK, WORK, make_terms
from tests.processes import ROOT

ME = NAMES[0]
OTHER_SESSION = bytes(16)


def named(letters: str) -> frozenset[str]:
    return frozenset(letters)


def opened(memory: RoundMemory, cohort: str, clients: str = "", work: bytes = WORK, session: bytes = SESSION) -> None:
    memory.open_sum(session, "weights", work, named(cohort), named(clients or cohort))


@pytest.fixture(params=["in memory", "on the disk, closed and opened again", "on the disk, written anew"])
def again(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[list[RoundMemory]]:
    """The same memory each time it is taken out of the list."""
    if request.param.endswith("anew"):
        monkeypatch.setattr(ledger, "_SLACK", -1)

    class Lives(list[RoundMemory]):
        memory: RoundMemory | None = None

        def pop(self, *_: object) -> RoundMemory:
            if self.memory is None or isinstance(self.memory, Ledger):
                if isinstance(self.memory, Ledger):
                    self.memory.close()
                self.memory = RoundMemory() if request.param == "in memory" else Ledger(tmp_path / "ledger.jsonl")
            return self.memory

    lives = Lives()
    yield lives
    if isinstance(lives.memory, Ledger):
        lives.memory.close()


def test_a_round_is_entered_once_and_rounds_only_grow(again: list[RoundMemory]) -> None:
    def enter(round_number: int, bucket: str = "weights", session: bytes = SESSION) -> None:
        terms = make_terms(3, round_number=round_number, bucket=bucket, session=session)
        ClientRound(ME, IDENTITIES[ME], ENROLLED, VectorPlan(bucket, MODULUS, 4), again.pop()).advertise(terms.encode())

    enter(4)
    for stale in (4, 3, 0):
        with breaks(Rule.STALE_ROUND):
            enter(stale)
    enter(4, bucket="scaler")
    enter(1, session=OTHER_SESSION)
    enter(6)
    with breaks(Rule.STALE_ROUND):
        enter(5)


def test_a_stage_is_answered_once_even_if_everything_else_was_set_back(again: list[RoundMemory]) -> None:
    for stage in Stage:
        again.pop().claim(SESSION, "weights", 1, stage)
    for stage in list(Stage)[1:]:
        with breaks(Rule.REPEATED_STAGE):
            again.pop().claim(SESSION, "weights", 1, stage)


def test_a_work_is_given_to_one_set_of_clients_whatever_the_session(again: list[RoundMemory]) -> None:
    again.pop().check_set(WORK, named("abcd"))
    opened(again.pop(), "abcd")
    opened(again.pop(), "abcd", session=OTHER_SESSION)  # the same sum again says nothing new
    for others in ("abc", "abcde", "abce"):
        with breaks(Rule.REPEATED_WORK, match="expected the same clients again"):
            again.pop().check_set(WORK, named(others))
        with breaks(Rule.REPEATED_WORK):
            opened(again.pop(), others, session=OTHER_SESSION)
    again.pop().check_set(TASK, named("abc"))  # another work


def test_tenants_may_leave_and_come_and_not_be_exchanged(again: list[RoundMemory]) -> None:
    opened(again.pop(), "abcd")
    for cohort in ("abcd", "abc", "abcde", "aefg"):
        again.pop().check_cohort(SESSION, "weights", named(cohort), 3)
    with breaks(Rule.COHORT_SWAP, match=r"\['e'\] in the place of \['d'\]"):
        again.pop().check_cohort(SESSION, "weights", named("abce"), 3)
    again.pop().check_cohort(OTHER_SESSION, "weights", named("abce"), 3)
    again.pop().check_cohort(SESSION, "evaluation", named("abce"), 3)


def test_a_line_that_a_crash_cut_off_was_never_answered(tmp_path: Path) -> None:
    path = tmp_path / "ledger.jsonl"
    memory = Ledger(path)
    memory.claim(SESSION, "weights", 1, Stage.ADVERTISE)
    memory.close()
    whole = path.read_bytes()
    with path.open("ab") as file:
        file.write(whole[:-5])
    memory = Ledger(path)
    assert path.read_bytes() == whole
    memory.claim(SESSION, "weights", 1, Stage.SHARE)
    memory.close()
    Ledger(path).close()
    assert path.stat().st_mode & 0o777 == 0o600
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize(
    "line", [b"[]", b"\xff", b"{}", b'{"at": ["00", "weights", 1, 9]}', b'{"work": ["00", "ab"]}', b"[" * 100_000, b""]
)
def test_a_spoilt_memory_refuses_and_is_left_alone(tmp_path: Path, line: bytes) -> None:
    path = tmp_path / "ledger.jsonl"
    path.write_bytes(line + b"\n")
    with breaks(Rule.ROUND_MEMORY, match=r"line 1: .*restore it from a backup"):
        Ledger(path)
    assert path.read_bytes() == line + b"\n"


def test_what_can_not_be_remembered_is_not_answered(tmp_path: Path) -> None:
    with breaks(Rule.ROUND_MEMORY, match="can't be opened"):
        Ledger(tmp_path / "missing" / "ledger.jsonl")
    memory = Ledger(tmp_path / "ledger.jsonl")
    memory.close()
    with breaks(Rule.ROUND_MEMORY, match="can't be written"):
        memory.claim(SESSION, "weights", 1, Stage.ADVERTISE)


def test_a_full_disk_leaves_whole_lines(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "ledger.jsonl"
    memory = Ledger(path)
    memory.claim(SESSION, "weights", 1, Stage.ADVERTISE)
    write = os.write

    def full(descriptor: int, data: bytes) -> int:
        write(descriptor, bytes(data[:10]))
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "write", full)
    with breaks(Rule.ROUND_MEMORY, match="No space left"):
        memory.claim(SESSION, "weights", 1, Stage.SHARE)
    monkeypatch.undo()
    memory.claim(SESSION, "weights", 1, Stage.SHARE)
    memory.close()
    Ledger(path).close()


def test_two_processes_of_one_tenant_never_both_run(tmp_path: Path) -> None:
    path = tmp_path / "ledger.jsonl"
    memory = Ledger(path)
    program = "import sys; from pathlib import Path; from client.ledger import Ledger; Ledger(Path(sys.argv[1]))"
    for _ in range(3):
        end = subprocess.run([sys.executable, "-c", program, path], cwd=ROOT, capture_output=True, text=True)
        assert "another process of this tenant has it open" in end.stderr
    memory.close()
    assert subprocess.run([sys.executable, "-c", program, path], cwd=ROOT).returncode == 0
