"""What the name of a log says: its kind, without the suffixes of packers and of a rotation, and its place in time."""

import re
from pathlib import Path

from shared.data_sources import compressed

_DELIVERY_TIME = re.compile(r"_(\d{8}T\d{4}Z)_")
# logrotate's `.1` and `-20261101`, and the dates with hours that loggers append; only after a suffix, as of `a.log.1`:
# the `-00001` of `part-00001` is no rotation.
_ROTATED = re.compile(r"(?<=[^./])(\.[a-z_][a-z0-9_]*)[-._](\d[\dTZ:._-]*)$", re.IGNORECASE)
_MAY_BE_LOGS = ("", ".csv", ".tsv", ".txt", ".log", ".json", ".jsonl", ".ndjson", ".data")


def bare_name(name: str) -> str:
    """A name, or the end of a path, without what packing and rotating appended, as they are in `a.log.2.gz`."""
    return _unpacked_and_rotated(name)[0]


def may_be_a_log(name: str) -> bool:
    """Whether the first characters of a file of this name are worth a look, whatever it is called."""
    return Path(bare_name(name)).suffix.lower() in _MAY_BE_LOGS


def read_order(file: Path) -> tuple[str, str, bool, int, str]:
    """By this files are sorted before they are read: the time that AWS writes into the name, then the path.

    Of a log that was rotated the oldest comes first: by date, or the highest number; the one that is written to, last.
    """
    delivered = _DELIVERY_TIME.search(file.name)
    base, rotation = _unpacked_and_rotated(str(file))
    counted = re.fullmatch(r"0|[1-9]\d{0,4}", rotation)  # `split` numbers with zeros before, and upwards
    return (delivered[1] if delivered else "", base, not rotation, -int(rotation) if counted else 0, str(file))


def _unpacked_and_rotated(name: str) -> tuple[str, str]:
    """A name as it was before, and its number or date in a rotation, empty where it has none."""
    rotation = ""
    while True:
        packer = next((suffix for suffix in compressed.SUFFIXES if name.lower().endswith(suffix)), "")
        found = None if packer else _ROTATED.search(name)
        if packer:
            name = name[: -len(packer)]
        elif found:
            name, rotation = name[: found.end(1)], found[2]
        else:
            return name, rotation
