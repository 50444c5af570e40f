"""Files that others gave: a pipe does not hang, a device does not fill the memory, and each reader says so."""

import errno
import io
import os
import subprocess
import sys
from pathlib import Path

import pytest

from shared.bounded_files import read_at_most, read_bounded
from shared.enrolment import Enrolment
from shared.errors import EnrolmentError, KeyFileError
from shared.identity import ClientIdentity


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
        with pytest.raises(KeyFileError, match="can't be read"):
            ClientIdentity.load(path, "client-1")


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
