"""Make, show or rotate the orchestrator's Paillier key.

    python orchestrator/keys.py new --out config/pki/paillier.json
    python orchestrator/keys.py show --out config/pki/paillier.json
    python orchestrator/keys.py rotate --out config/pki/paillier.json

With the environment variable ORCHESTRATOR_KEY_PASSPHRASE set, the file is encrypted.
"""

import argparse
import os
import re
import sys
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from shared import cli
from shared.config_checks import MIN_SECURE_KEY_BITS
from shared.errors import KeyMaterialError
from shared.he.keys import generate_keypair
from shared.he.modulus_proof import prove
from shared.key_files import (
    MAX_KEY_BITS,
    PASSPHRASE_VARIABLE,
    PaillierKey,
    load_key,
    passphrase_from_environment,
    read_header,
    replace_key,
    save_key,
)
from shared.private_files import make_private_folder

DEFAULT_KEY_LENGTH: Final = 3072  # NIST SP 800-57 part 1, table 2: 128 bits of strength


def new_key(path: Path, key_length: int, passphrase: str | None) -> PaillierKey:
    """Make a key and save it.

    Raises:
        KeyMaterialError: the file exists, or it can't be written.
        KeyMaterialError: no key of this length can be made.
    """
    if os.path.lexists(path):  # told before the seconds that a key takes; save_key checks again, without a gap
        raise KeyMaterialError(f"{path}: already exists and is never overwritten; rotate it, or choose another --out")
    key = _generate(key_length)
    make_private_folder(path.parent)
    save_key(path, key, passphrase)
    return key


def rotate_key(path: Path, key_length: int | None, passphrase: str | None) -> tuple[PaillierKey, PaillierKey, Path]:
    """Put a new key in the place of the old, and keep the old file beside it under a name with the date.

    Args:
        path: the key file.
        key_length: bits of the new n; None for the old key's.
        passphrase: opens the old file if that is encrypted, and encrypts the new one.

    Returns:
        The old key, the new key and where the old file is kept.

    Raises:
        KeyMaterialError, PassphraseError: the old key can't be loaded or the new one saved; the old file is then
            still in place.
    """
    old = load_key(path, passphrase)
    new = _generate(key_length or old.key_length)
    kept = path.with_name(f"{path.name}.{datetime.now(UTC):%Y%m%dT%H%M%SZ}")
    try:
        os.link(path, kept)  # a second name of the same file: its mode stays, and there is always a key at `path`
    except OSError as error:
        raise KeyMaterialError(f"{kept}: the old key can't be kept: {error.strerror}; repeat the command") from None
    replace_key(path, new, passphrase)
    return old, new, kept


def _generate(key_length: int) -> PaillierKey:
    public, private = generate_keypair(key_length)
    proof = prove(private.private_key.p, private.private_key.q)
    return PaillierKey(public, private, datetime.now(UTC).replace(microsecond=0), proof)


def _describe(path: Path) -> list[str]:
    header = read_header(path)
    return [
        f"key_length   {header.key_length} bits",
        f"fingerprint  {header.fingerprint}",
        f"created      {header.created:%Y-%m-%d %H:%M:%S} UTC",
        f"proof        {'yes' if header.proven else 'not in the file (the server makes it at each start)'}",
        f"protected    {'yes' if header.protected else f'no (set {PASSPHRASE_VARIABLE}, then rotate)'}",
    ]


def _run(args: argparse.Namespace) -> list[str]:
    """Do what the command line asks, and say what was done."""
    path: Path = args.out
    if args.command == "show":
        return _describe(path)

    passphrase = passphrase_from_environment()
    if args.command == "new":
        new_key(path, args.key_length, passphrase)
        return [f"Made {path}. Keep it on the server alone: whoever has it can decrypt every update.", *_describe(path)]
    old, new, kept = rotate_key(path, args.key_length, passphrase)
    return [
        f"Rotated {path}. Restart the server to use the new key.",
        f"old  {old.public.fingerprint()}  kept as {kept}; delete it when no run needs it any more",
        f"new  {new.public.fingerprint()}",
    ]


def _key_length(text: str) -> int:
    bits = int(text) if re.fullmatch(r"\d{1,5}", text, re.ASCII) else 0
    if not MIN_SECURE_KEY_BITS <= bits <= MAX_KEY_BITS or bits % 16:
        raise argparse.ArgumentTypeError(
            f"{text!r}: expected a multiple of 16 from {MIN_SECURE_KEY_BITS} to {MAX_KEY_BITS} bits"
        )
    return bits


def main(argv: Sequence[str] | None = None) -> int:
    """The command line. Returns the exit status."""
    parser = cli.parser_of(__doc__)
    actions = parser.add_subparsers(dest="command", required=True)
    for name, meaning in (
        ("new", "make a key"),
        ("show", "print what may be known of a key"),
        ("rotate", "make a new key and keep the old one beside it"),
    ):
        action = actions.add_parser(name, help=meaning, description=meaning, allow_abbrev=False)
        action.add_argument("--out", type=Path, required=True, metavar="FILE", help="the key file")
        if name != "show":
            length = DEFAULT_KEY_LENGTH if name == "new" else None
            action.add_argument(
                "--key_length", type=_key_length, default=length, help=f"bits of n ({length or 'as before'})"
            )
    args = parser.parse_args(argv)
    return cli.run(lambda: print("\n".join(_run(args))))


if __name__ == "__main__":
    sys.exit(main())
