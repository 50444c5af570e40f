"""Make the hostile updates again, byte for byte, and their table in `docs/hostile-inputs.md`.

.venv/bin/python -m tests.vectors.make            # write
.venv/bin/python -m tests.vectors.make --check    # compare with what is committed; exit 1 where they differ
"""

import argparse
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from tests.vectors.signatures import replays, signatures
from tests.vectors.updates import ciphertexts, lengths, pickled, wrappers
from tests.vectors.world import FOLDER, PAYLOADS, HostileUpdate

DOCUMENT = FOLDER.parent.parent / "docs" / "hostile-inputs.md"
BEGIN, END = "<!-- vectors: made by tests/vectors/make.py -->", "<!-- end of vectors -->"


def all_vectors() -> Iterator[HostileUpdate]:
    """Every vector, family by family."""
    for family in (lengths, wrappers, pickled, ciphertexts, signatures, replays):
        yield from family()


def files() -> dict[Path, str]:
    """Every file that this script writes, and its content.

    Raises:
        ValueError: two vectors have the same name.
    """
    vectors = sorted(all_vectors(), key=lambda vector: vector.name)
    repeated = [name for name, count in Counter(vector.name for vector in vectors).items() if count > 1]
    if repeated:
        raise ValueError(f"two vectors are named {repeated}")
    rows = [f"| `{v.name}` | {v.about.replace('|', chr(92) + '|')} | `{v.flaw}` |" for v in vectors]
    table = "\n".join([f"{len(vectors)} vectors.", "", "| vector | what it is | flaw |", "|---|---|---|", *rows])
    before, _, rest = DOCUMENT.read_text(encoding="utf-8").partition(BEGIN)
    content = {PAYLOADS / f"{v.name}.txt": v.to_text() for v in vectors}
    return content | {DOCUMENT: f"{before}{BEGIN}\n{table}\n{END}{rest.partition(END)[2]}"}


def differences() -> list[str]:
    """Names of files that are missing, superfluous, or not what this script writes."""
    wanted = files()
    found = {*PAYLOADS.glob("*"), DOCUMENT}
    wrong = [path for path, text in wanted.items() if path not in found or path.read_text(encoding="utf-8") != text]
    return sorted(path.name for path in [*wrong, *(found - wanted.keys())])


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true")
    if parser.parse_args().check:
        wrong = differences()
        print("\n".join(wrong) or "every file is as this script writes it")
        return 1 if wrong else 0
    wanted = files()
    PAYLOADS.mkdir(exist_ok=True)
    for path in PAYLOADS.glob("*"):
        path.unlink()
    for path, text in wanted.items():
        path.write_text(text, encoding="utf-8")
    print(f"{len(wanted) - 1} vectors")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
