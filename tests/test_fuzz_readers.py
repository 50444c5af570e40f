"""A short slice of `make fuzz_readers`, and proof that it would notice what it looks for."""

from pathlib import Path
from typing import Any

import pytest

from shared.data_sources.broken_lines import BrokenLines
from tests import fuzz_readers
from tests.fuzz_readers import FuzzError, fuzz, try_file
from tests.fuzz_shapes import RECORDS, shapes

INPUTS = 320
SOURCES = tuple(fuzz_readers.READERS)


def test_mutated_files_give_rows_or_typed_errors_and_each_record_is_told(tmp_path: Path) -> None:
    outcomes = fuzz(INPUTS, 5, tmp_path)
    assert outcomes.total() == INPUTS
    for source in SOURCES:
        assert outcomes[f"{source} rows"] >= 5
    assert sum(outcomes[f"{source} DataError"] for source in SOURCES) >= 10
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", shapes())
def test_each_shape_is_read_as_a_whole(name: str, tmp_path: Path) -> None:
    shape = shapes()[name]
    assert try_file(shape.source, shape.content, tmp_path) == "rows"
    (path,) = tmp_path.iterdir()
    records, broken = fuzz_readers.read(shape.source, path)
    assert (records, broken.broken) == (RECORDS, 0)


def test_a_reader_that_says_nothing_of_what_it_leaves_out_is_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(BrokenLines, "leave_out", lambda *_: None)
    with pytest.raises(FuzzError, match=r"records read; .* saved as"):
        fuzz(INPUTS, 5, tmp_path)
    (saved,) = tmp_path.iterdir()
    with pytest.raises(FuzzError, match="records read"):
        try_file(saved.suffix[1:], saved.read_bytes(), tmp_path)


def test_a_reader_that_does_not_even_count_a_line_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    honest = fuzz_readers.read

    def forgetful(source: str, path: Path) -> Any:
        records, broken = honest(source, path)
        broken.lines, broken.broken = broken.lines - broken.broken, 0
        return records, broken

    monkeypatch.setattr(fuzz_readers, "read", forgetful)
    with pytest.raises(FuzzError, match=f"in rows, expected .* of {RECORDS}"):
        fuzz(INPUTS, 5, tmp_path)


def _raise(*_: object) -> None:
    raise KeyError("x")


def _hang(*_: object) -> None:
    while True:
        pass


@pytest.mark.parametrize(("broken_twin", "message"), [(_raise, "KeyError: 'x'"), (_hang, "more than 1 seconds")])
def test_a_traceback_and_a_hang_are_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, broken_twin: Any, message: str
) -> None:
    monkeypatch.setattr(fuzz_readers, "read", broken_twin)
    monkeypatch.setattr(fuzz_readers, "SECONDS", 1)
    with pytest.raises(FuzzError, match=message):
        fuzz(INPUTS, 5, tmp_path)
