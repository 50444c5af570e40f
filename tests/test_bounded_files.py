"""Files that others gave: a pipe does not hang, a device does not fill the memory, and each reader says so."""

import errno
import gzip
import io
import itertools
import os
import subprocess
import sys
import tracemalloc
from pathlib import Path

import pytest
import yaml

from client.ledger import Ledger
from shared.bounded_files import read_at_most, read_bounded
from shared.config import Config, load_config
from shared.data_sources import nsl_kdd
from shared.data_sources.envelopes import records
from shared.data_sources.files import opened_text
from shared.data_sources.json_values import LONGEST_VALUE
from shared.enrolment import Enrolment
from shared.errors import ConfigError, DataError, EnrolmentError, KeyMaterialError
from shared.identity import ClientIdentity
from shared.masking.errors import Rule
from shared.yaml_values import UniqueKeyLoader
from tests.breaking import breaks
from tests.processes import ROOT


def test_a_file_is_read_to_its_bound_and_no_further(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"x" * 5_000_000)
    assert read_bounded(path, 5_000_000) == path.read_bytes()
    (tmp_path / "link").symlink_to(path)
    assert read_bounded(tmp_path / "link", 5_000_000) == path.read_bytes(), "secret stores mount their files as links"
    with pytest.raises(OSError, match="larger than 4999999 bytes") as caught:
        read_bounded(path, 4_999_999)
    assert caught.value.errno == errno.EFBIG


def test_a_stream_that_gives_little_at_a_time_is_read_to_its_end() -> None:
    class Slow(io.BytesIO):
        def read(self, _size: int | None = -1, /) -> bytes:
            return super().read(3)

    assert read_at_most(Slow(b"x" * 100), 100, "slow") == b"x" * 100
    with pytest.raises(OSError, match="larger than 99 bytes"):
        read_at_most(Slow(b"x" * 100), 99, "slow")


def odd_files(folder: Path) -> list[Path]:
    """What is no file: a pipe without a writer, a folder, and a device that never ends."""
    os.mkfifo(folder / "pipe", 0o600)
    return [folder / "pipe", folder, Path("/dev/zero"), Path("/dev/tty")]


def test_what_is_no_regular_file_is_refused_at_once(tmp_path: Path) -> None:
    for path in odd_files(tmp_path):
        with pytest.raises(OSError, match=r"not a regular file|No such device"):
            read_bounded(path, 1 << 20)


def test_readers_make_it_an_error_of_their_own(tmp_path: Path) -> None:
    for path in odd_files(tmp_path):
        with pytest.raises(EnrolmentError, match="can't be read"):
            Enrolment.load(path)
        with pytest.raises(KeyMaterialError, match="can't be read"):
            ClientIdentity.load(path, "client-1")


@pytest.fixture
def odd(tmp_path: Path) -> list[Path]:
    """What is no file, and a file that is one but for its size; it is holes alone."""
    (tmp_path / "huge").touch()
    os.truncate(tmp_path / "huge", 1 << 33)
    return [*odd_files(tmp_path), tmp_path / "huge"]


def test_settings_are_read_within_their_bound(odd: list[Path]) -> None:
    for path in odd:
        with pytest.raises(ConfigError, match=rf"^{path}: can't be read: .*; expected a YAML file$"):
            load_config(path)


def test_a_pipe_as_settings_ends_a_script_in_one_line(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe", 0o600)
    command = [sys.executable, "client/run_clients.py", "--config", str(tmp_path / "pipe")]
    end = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60, check=False)
    assert end.returncode == 2
    assert len((end.stdout + end.stderr).splitlines()) == 1
    assert "not a regular file; expected a YAML file" in end.stdout + end.stderr


def test_nsl_kdd_is_read_within_its_bound(odd: list[Path], tmp_path: Path) -> None:
    folder = tmp_path / "nsl-kdd"
    folder.mkdir()
    config = Config(data_source="nsl_kdd", data_path=str(folder), num_features=122, partition="even")
    for path in odd:
        (folder / nsl_kdd.TEST_FILE).unlink(missing_ok=True)
        (folder / nsl_kdd.TEST_FILE).symlink_to(path)
        with pytest.raises(DataError, match=r"can't be read: .*; expected a text file"):
            nsl_kdd.test_rows(config)


def test_a_ledger_is_read_within_its_bound(odd: list[Path]) -> None:
    for path in odd:
        with breaks(Rule.ROUND_MEMORY, match=r"can't be (opened|read): .*; check the disk and its owner"):
            Ledger(path)
    assert odd[-1].stat().st_size == 1 << 33, "what is refused is left alone"


def test_no_descriptor_is_left_open(tmp_path: Path) -> None:
    before = len(os.listdir("/proc/self/fd"))  # noqa: PTH208 (the descriptors' names are all that is wanted)
    for path in odd_files(tmp_path):
        with pytest.raises(OSError, match=r"."):
            read_bounded(path, 1 << 20)
    assert len(os.listdir("/proc/self/fd")) == before  # noqa: PTH208


def test_a_pipe_hangs_a_reader_opened_as_usual(tmp_path: Path) -> None:
    """The twin: what opening it without waiting is for."""
    os.mkfifo(tmp_path / "pipe", 0o600)
    with pytest.raises(subprocess.TimeoutExpired):
        subprocess.run([sys.executable, "-c", f"open({str(tmp_path / 'pipe')!r}).read()"], timeout=2, check=False)


def bomb(path: Path, content: bytes, repeats: int) -> Path:
    """A gzip file of about a thousandth of what is in it, made without ever holding that."""
    with gzip.open(path, "wb") as stream:
        for _ in range(repeats):
            stream.write(content)
    return path


@pytest.mark.parametrize(
    ("content", "repeats", "message"),
    [
        pytest.param(
            bytes((1 << 20) - 1) + b"\n", 100, "unpacks to more than 200 times its size", id="100 MB of zeros"
        ),
        pytest.param(b" " * 9_999 + b"\n", 10_000, "unpacks to more than 200 times its size", id="lines of blanks"),
        pytest.param(bytes(1 << 20), 30, "a line is longer than 16777216 bytes", id="one line of 30 MB"),
    ],
)
def test_a_gzip_bomb_is_refused_before_it_goes_off(tmp_path: Path, content: bytes, repeats: int, message: str) -> None:
    path = bomb(tmp_path / "a.gz", content, repeats)
    read: list[int] = []

    def read_all() -> None:
        with opened_text(path) as text:
            while part := text.read(1 << 20):
                read.append(len(part))

    with pytest.raises(DataError, match=message):
        read_all()
    assert sum(read) <= 65 << 20


def test_a_log_that_packs_well_is_no_bomb(tmp_path: Path) -> None:
    line = "2 123456789012 eni-0a1b2c3d4e5f 10.0.0.{} 10.0.1.1 443 {} 6 10 840 1620140661 1620140721 ACCEPT OK\n"
    lines = "".join(line.format(number % 256, number) for number in range(50_000)).encode()
    path = bomb(tmp_path / "a.gz", lines, 4)
    with opened_text(path) as text:
        assert sum(1 for _ in text) == 200_000


@pytest.mark.parametrize("begin", [b'{"Records": [{"eventName": "', b'["', b'{"', b'[[[{"a": "', b'{"a": 1'])
def test_a_json_value_without_an_end_takes_no_memory(tmp_path: Path, begin: bytes) -> None:
    """It is given up at `LONGEST_VALUE`, and what is on later lines is read."""
    path = tmp_path / "a.json"
    path.write_bytes(begin + b"1" * (40 << 20) + b'\n{"eventName": "x", "eventSource": "y"}\n')
    tracemalloc.start()
    found = list(records(path))
    _, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert [value.value for value in found if not value.broken][-1:] == [{"eventName": "x", "eventSource": "y"}]
    assert any(value.broken for value in found)
    assert most < 8 * LONGEST_VALUE


def test_one_list_of_a_hundred_megabytes_is_read_item_by_item(tmp_path: Path) -> None:
    item = b'{"eventName": "x", "eventSource": "y", "requestParameters": {"a": "' + b"b" * 1900 + b'"}},'
    path = tmp_path / "a.json"
    path.write_bytes(b'{"account": "1", "Records": [' + item * 50_000 + item[:-1] + b"]}")
    tracemalloc.start()
    assert sum(not value.broken for value in records(path)) == 50_001
    _, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert most < 40 << 20


ALIASES = "a: &a [x, x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"{new}: &{new} [{', '.join([f'*{old}'] * 10)}]\n" for old, new in itertools.pairwise("abcdefghi")
)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        pytest.param(ALIASES, "an alias", id="a billion values by aliases"),
        pytest.param("a: &a [*a]", "an alias", id="a list in itself"),
        pytest.param("a: " + "[" * 3_000 + "]" * 3_000, "nested deeper than 20 levels", id="3,000 levels"),
        pytest.param("a: " + "{a: " * 3_000 + "}" * 3_000, "nested deeper than 20 levels", id="3,000 mappings"),
        pytest.param("a: 2026-02-31", "day is out of range", id="a day that is none"),
        pytest.param("a: " + "9" * 5_000, "4300 digits", id="a number beyond what Python reads"),
        pytest.param("a: 1\na: 2", "'a' is given twice", id="a key twice"),
        pytest.param("[a]: 1\n[a]: 2", "unhashable", id="a key that is a list"),
    ],
)
def test_yaml_that_would_take_all_memory_or_all_stack_is_refused(text: str, message: str) -> None:
    with pytest.raises(yaml.YAMLError, match=message):
        yaml.load(text, Loader=UniqueKeyLoader)


def test_many_keys_are_read_before_the_test_is_ended() -> None:
    """To look each up among all takes minutes."""
    assert len(yaml.load("".join(f"k{n}: 1\n" for n in range(20_000)), Loader=UniqueKeyLoader)) == 20_000
