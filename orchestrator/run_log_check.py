"""Read the log chain of a run and check all of it; `orchestrator/run_log.py` says what it is and writes it."""

import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from shared.bounded_files import open_regular
from shared.errors import RunLogError
from shared.log_head import Head, from_hex
from shared.strict_json import parse_strict_json

ENTRY_PREFIX: Final = b"cloud-security-orchestrator run log entry v1\0"
START: Final = "start"
ROUND: Final = "round"
NOTHING: Final = bytes(32)  # what stands for the entry before the first
_LONGEST_LINE_BYTES = 1 << 26

Entry = Mapping[str, Any]


@dataclass(frozen=True)
class CheckedLog:
    """A chain in which nothing is wrong.

    Attributes:
        path: the file.
        signer: whose signatures it has, 32 bytes.
        entries: all of them.
        sha256: of each line, 32 bytes; a head is one of these with its place, counted from 1.
        rounds: the entry of each finished round. A round that was under way when the server ended is made again, and
            the later entry counts.
    """

    path: Path
    signer: bytes
    entries: Sequence[Entry]
    sha256: Sequence[bytes]
    rounds: Sequence[Entry]

    @property
    def run(self) -> str:
        return str(self.entries[0]["run"])

    def place_of(self, sha256: bytes) -> int:
        """Which entry a head stands for, counted from 1.

        Raises:
            RunLogError: none.
        """
        if sha256 not in self.sha256:
            raise RunLogError(
                f"{self.path}: none of its {len(self.entries)} entries has the head {sha256.hex()}: the log was "
                "written anew or cut off after the head was given out"
            )
        return self.sha256.index(sha256) + 1

    def check_heads(self, heads: Sequence[Head]) -> None:
        """Every head that a tenant was given is in the chain, at its place.

        Raises:
            RunLogError: one is not, or is not signed by the key that signed the chain.
        """
        for head in heads:
            head.check()
            if head.signer != self.signer:
                raise RunLogError(
                    f"{self.path}: signed by {self.signer.hex()}, the tenant's head by {head.signer.hex()}"
                )
            if self.place_of(head.sha256) != head.entries:
                raise RunLogError(f"{self.path}: the head of entry {head.entries} is at another place of the chain")

    def check_records(self, metrics: Path) -> int:
        """The lines of `metrics.jsonl` are the ones that were logged. Returns the bytes after them, without cover.

        A server that was killed between the two files leaves a line there; so does whoever cuts off the log's end.

        Raises:
            RunLogError: one is not, or is missing.
        """
        try:
            with open_regular(metrics) as file:
                for entry in self.rounds:
                    line = file.readline(_LONGEST_LINE_BYTES)
                    if hashlib.sha256(line).hexdigest() != entry.get("record_sha256"):
                        where = f"{metrics}, line {entry['round']}"
                        raise RunLogError(f"{where}: not the record that was logged; restore it from a backup")
                return os.fstat(file.fileno()).st_size - file.tell()
        except OSError as error:
            raise RunLogError(f"{metrics}: can't be read: {error.strerror}; restore it from a backup") from None


def check_log(path: Path, signer: bytes | None = None) -> CheckedLog:
    """Read a chain and check all of it.

    Args:
        path: the file.
        signer: whose signatures it must have; None: of whomever its first entry names.

    Raises:
        RunLogError: the file can't be read, or is not what one signer wrote, byte for byte and in this order.
    """
    entries: list[Entry] = []
    digests: list[bytes] = []
    rounds: list[Entry] = []
    try:
        with open_regular(path) as file:
            while line := file.readline(_LONGEST_LINE_BYTES):
                entry = _read(line)
                signer = signer or from_hex(entry.get("signer"))
                _check_entry(entry, signer, len(entries) + 1, digests[-1] if digests else NOTHING)
                if entries and entry["run"] != entries[0]["run"]:
                    raise ValueError("it is of another run")
                _count(rounds, entry, first=not entries)
                entries.append(entry)
                digests.append(hashlib.sha256(line).digest())
    except OSError as error:
        raise RunLogError(f"{path}: can't be read: {error.strerror}; expected the log chain of a run") from None
    except ValueError as error:
        raise RunLogError(
            f"{path}, entry {len(entries) + 1}: {error}; the log was changed or cut off after it was written"
        ) from None
    if signer is None or not entries:
        raise RunLogError(f"{path}: empty; expected at least the entry of the run's start")
    return CheckedLog(path, signer, entries, digests, rounds)


def _read(line: bytes) -> Entry:
    """The entry of a line, which has one spelling.

    Raises:
        ValueError: the line is another.
    """
    if not line.endswith(b"\n"):
        raise ValueError("half a line")
    entry = parse_strict_json(line)
    if not isinstance(entry, dict) or canonical(entry) + b"\n" != line:
        raise ValueError("not a line as a server writes it")
    return entry


def _check_entry(entry: Entry, signer: bytes, number: int, previous: bytes) -> None:
    if entry.get("entry") != number:
        raise ValueError(f"it says that it is entry {entry.get('entry')!r:.20}")
    if entry.get("previous") != previous.hex():
        raise ValueError("it does not follow the line before it, whose SHA-256 differs")
    if not isinstance(entry.get("run"), str):
        raise ValueError("it names no run")
    body = {name: value for name, value in entry.items() if name != "signature"}
    try:
        key = Ed25519PublicKey.from_public_bytes(signer)
        key.verify(from_hex(entry.get("signature")), ENTRY_PREFIX + canonical(body))
    except InvalidSignature:
        raise ValueError(f"its signature is not that of the key {signer.hex()}") from None


def _count(rounds: list[Entry], entry: Entry, first: bool) -> None:
    """Keep the entry of each round; a start takes back those that were not finished."""
    match entry:
        case {"kind": "start", "finished": int(finished)} if 0 <= finished <= len(rounds):
            del rounds[finished:]
        case {"kind": "round", "round": int(number)} if number == len(rounds) + 1 and not first:
            rounds.append(entry)
        case _:
            raise ValueError("it is neither the next round nor a start of the server")


def canonical(entry: Entry) -> bytes:
    """The one spelling of an entry, without the end of the line."""
    return json.dumps(entry, sort_keys=True, separators=(",", ":"), allow_nan=False).encode()
