"""A tenant's own keys: make them, and ask for them to be enrolled, renewed or exchanged. None leaves this machine.

python client/enrol.py new --client_id 2 --enrolled enrolled.json --out keys        # a key, and a request to enrol it
python client/enrol.py renew --client_id 2 --enrolled enrolled.json --out keys      # a request to count for longer
python client/enrol.py rotate --client_id 2 --enrolled enrolled.json --out keys     # the next key, and a request for it
python client/enrol.py activate --client_id 2 --enrolled enrolled.json --out keys   # once the roster lists the new key
python client/enrol.py show --client_id 2 --enrolled enrolled.json --out keys
python client/enrol.py protect --client_id 2 --out keys                             # put a passphrase on the keys
python client/enrol.py node --client_id 2 --out keys                                # a key for a Flower SuperNode

Send the operator the file client-2.request.json, and tell its fingerprint on another way. The operator sends back the
certificate that the server asks for, client-2.tls.pem; put it beside client-2.tls.key. With the environment variable
TENANT_KEY_PASSPHRASE set, keys are encrypted, and the same variable opens them in a run.
"""

import argparse
import contextlib
import os
import sys
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)

from shared import cli
from shared.enrolled_clients import EnrolledClient
from shared.enrolment import Enrolment
from shared.enrolment_request import EnrolmentRequest, Present, make_certificate_request
from shared.errors import ConfigError, EnrolmentError, KeyMaterialError, PassphraseError
from shared.identity import identity_name
from shared.identity_files import IDENTITY_PASSPHRASE, encode_identity, load_identity_key
from shared.node_keys import NODES, node_key_files
from shared.passphrases import passphrase_in
from shared.private_files import (
    PRIVATE_MODE,
    PUBLIC_MODE,
    create_file,
    make_private_folder,
    read_private_file,
    replace_file,
)

_NEXT = ".next"  # what the file of a key is called that is not listed yet


class Keys:
    """One tenant's key files.

    Args:
        folder: where they are.
        number: the tenant's.
    """

    def __init__(self, folder: Path, number: int) -> None:
        self.name = identity_name(str(number))
        self.folder = folder
        self.path = folder / f"{self.name}.key"
        self.next = folder / f"{self.name}.key{_NEXT}"
        self.request = folder / f"{self.name}.request.json"
        self.tls_key = folder / f"{self.name}.tls.key"

    def load(self) -> Ed25519PrivateKey:
        """The key that is in use.

        Raises:
            KeyMaterialError, PassphraseError: the file can't be used.
        """
        return load_identity_key(self.path, self.name, "make one with client/enrol.py new")

    def load_tls(self) -> ec.EllipticCurvePrivateKey:
        """The key of its TLS certificate, made if there is none yet: P-256, as TLS libraries take no Ed25519.

        Raises:
            KeyMaterialError, PassphraseError: the file can't be used or written.
        """
        if not os.path.lexists(self.tls_key):
            make_private_folder(self.folder)
            key = ec.generate_private_key(ec.SECP256R1())
            create_file(self.tls_key, _tls_pem(key), mode=PRIVATE_MODE, advice="remove it and repeat")
            return key
        data = read_private_file(self.tls_key, "make one with client/enrol.py new")
        passphrase = passphrase_in(IDENTITY_PASSPHRASE) if b"ENCRYPTED" in data else None
        if b"ENCRYPTED" in data and passphrase is None:
            raise PassphraseError(f"{self.tls_key}: is encrypted; set the environment variable {IDENTITY_PASSPHRASE}")
        try:
            found = load_pem_private_key(data, passphrase.encode() if passphrase else None)
        except (ValueError, TypeError):
            found = None
        if not isinstance(found, ec.EllipticCurvePrivateKey):
            raise KeyMaterialError(f"{self.tls_key}: no P-256 key under this passphrase; remove it, and renew")
        return found

    def new(self, roster: Enrolment) -> EnrolmentRequest:
        """Make a key, and a request to enrol it; or a fresh request, where the key of an earlier one is here.

        Raises:
            EnrolmentError: the name is enrolled, or was; or the key here is for another federation.
            KeyMaterialError, PassphraseError: a key can't be written, or the one that is here can't be used.
        """
        if self.name in roster.clients:
            raise EnrolmentError(f"{self.name} is in the roster already; ask the operator for a number that is free")
        if self.path.exists():
            return self._ask(roster, self._unlisted(roster), None)
        return self._ask(roster, self._create(self.path), None)

    def _unlisted(self, roster: Enrolment) -> Ed25519PrivateKey:
        """The key of an earlier request that was never signed: it came too late, was lost, or is of an older form."""
        with contextlib.suppress(EnrolmentError):  # what can't be read is replaced
            earlier = EnrolmentRequest.load(self.request)
            if earlier.federation != roster.signer:
                raise KeyMaterialError(
                    f"{self.path}: was made for the federation whose roster {earlier.federation[:16]}… signs, not for "
                    f"that of {roster.signer[:16]}…; a key is for one of them: choose another --out"
                )
        return self.load()

    def renew(self, roster: Enrolment) -> EnrolmentRequest:
        """A request that the present key counts for longer.

        Raises:
            EnrolmentError, UpdateRejectedError: the roster does not list it, or no more.
            KeyMaterialError, PassphraseError: the key can't be used.
        """
        key = self.load()
        self._listed(roster, key)
        return self._ask(roster, key, key)

    def rotate(self, roster: Enrolment) -> EnrolmentRequest:
        """Make the next key beside the present one, and a request to take it; the present one stays in use till then.

        Where there is a next key already, whose request came too late or was lost, that one is asked for again.

        Raises:
            As `renew`.
        """
        present = self.load()
        self._listed(roster, present)
        return self._ask(roster, self._load_next() if self.next.exists() else self._create(self.next), present)

    def activate(self, roster: Enrolment) -> None:
        """Put the next key in the place of the present one, which no roster will ever list again.

        Raises:
            EnrolmentError: the roster does not list the next key.
            KeyMaterialError, PassphraseError: a file can't be used.
        """
        self._listed(roster, self._load_next())
        try:
            self.next.replace(self.path)
        except OSError as error:
            raise KeyMaterialError(f"{self.path}: can't be written: {error.strerror}") from None

    def protect(self) -> list[Path]:
        """Encrypt the files of all keys, the next one's too, under the passphrase of the environment.

        Raises:
            PassphraseError: there is none, or a key is encrypted under another; then nothing was written.
            KeyMaterialError: a key can't be used, or a file can't be written.
        """
        passphrase = passphrase_in(IDENTITY_PASSPHRASE)
        if passphrase is None:
            raise PassphraseError(f"no passphrase; set the environment variable {IDENTITY_PASSPHRASE}")
        files = {self.path: encode_identity(self.name, self.load(), passphrase)}
        if os.path.lexists(self.next):
            files[self.next] = encode_identity(self.name, self._load_next(), passphrase)
        if os.path.lexists(self.tls_key):
            files[self.tls_key] = _tls_pem(self.load_tls())
        for path, data in files.items():
            replace_file(path, data, mode=PRIVATE_MODE)
        return list(files)

    def _load_next(self) -> Ed25519PrivateKey:
        return load_identity_key(self.next, self.name, "make one with client/enrol.py rotate")

    def _listed(self, roster: Enrolment, key: Ed25519PrivateKey) -> EnrolledClient:
        roster.public_key(self.name)
        listed = roster.clients[self.name]
        if listed.public_key != public_hex(key):
            raise EnrolmentError(
                f"the roster lists another key for {self.name}; is it the newest enrolled.json, and was the request "
                "signed? After a rotation: client/enrol.py activate"
            )
        return listed

    def _create(self, path: Path) -> Ed25519PrivateKey:
        make_private_folder(self.folder)
        key = Ed25519PrivateKey.generate()
        data = encode_identity(self.name, key, passphrase_in(IDENTITY_PASSPHRASE))
        create_file(path, data, mode=PRIVATE_MODE, advice="remove what is there, or choose another --out")
        return key

    def _ask(self, roster: Enrolment, key: Ed25519PrivateKey, former: Ed25519PrivateKey | None) -> EnrolmentRequest:
        listed = roster.clients.get(self.name)
        of = None if listed is None else Present(listed.public_key, listed.expires)
        today = datetime.now(UTC).date()
        asked = make_certificate_request(self.name, self.load_tls())
        request = EnrolmentRequest(roster.signer, self.name, public_hex(key), of, today, asked)
        replace_file(self.request, request.signed(key, former), mode=PUBLIC_MODE)
        return request


def public_hex(key: Ed25519PrivateKey) -> str:
    """The public half, 64 hex digits."""
    return key.public_key().public_bytes_raw().hex()


def _tls_pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    passphrase = passphrase_in(IDENTITY_PASSPHRASE)
    how = BestAvailableEncryption(passphrase.encode()) if passphrase else NoEncryption()
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, how)


def make_node_key(folder: Path, name: str) -> list[Path]:
    """The key of this tenant's Flower node, and what the operator registers of it.

    Raises:
        KeyMaterialError: there is one, or it can't be written.
    """
    files = {folder / file: data for file, data in node_key_files(name).items()}
    for path in files:
        if os.path.lexists(path):
            raise KeyMaterialError(
                f"{path}: already exists and is never overwritten; remove it, or choose another --out"
            )
    for path, data in files.items():
        make_private_folder(path.parent)
        mode = PUBLIC_MODE if path.name.endswith(".pub") else PRIVATE_MODE
        create_file(path, data, mode=mode, advice="remove it and repeat")
    return list(files)


def _describe(keys: Keys, roster: Enrolment) -> list[str]:
    key, listed = keys.load(), roster.clients.get(keys.name)
    state = "not in the roster: has the request been signed?"
    if listed is not None:
        state = f"listed, the last day is {listed.expires} ({(listed.expires - roster.today).days} days)"
        if listed.revoked:
            state = "revoked"
        elif listed.public_key != public_hex(key):
            state = "listed with another key; after a rotation: client/enrol.py activate"
    return [f"public key   {public_hex(key)}", f"enrolment    {state}", *_describe_roster(roster)]


def _describe_roster(roster: Enrolment) -> list[str]:
    return [
        f"roster       {roster.number}, fingerprint {roster.fingerprint}",
        f"signer       {roster.signer}   (roster_signer; compare it with what the operator told you)",
    ]


def _run(args: argparse.Namespace) -> list[str]:
    """Do what the command line asks, and say what was done."""
    keys = Keys(args.out, args.client_id)
    if args.command == "protect":
        files = ", ".join(map(str, keys.protect()))
        return [f"Encrypted {files}. A run needs {IDENTITY_PASSPHRASE} from now on."]
    if args.command == "node":
        private, public = make_node_key(keys.folder, keys.name)
        return [f"Made {private}. Send the operator {public}, who registers it: flwr supernode register {public.name}"]
    roster = Enrolment.load(args.enrolled)
    if args.signer and args.signer != roster.signer:
        raise EnrolmentError(
            f"{args.enrolled}: signed by {roster.signer}, --signer says {args.signer}; get it from the operator anew"
        )
    if args.command == "show":
        return _describe(keys, roster)
    if args.command == "activate":
        keys.activate(roster)
        return [f"{keys.path} is the new key. Restart the client."]
    ask = {"new": keys.new, "renew": keys.renew, "rotate": keys.rotate}[args.command]
    wanted = (keys.next if args.command == "rotate" else keys.path, keys.tls_key)
    new = [str(path) for path in wanted if not path.exists()]
    request = ask(roster)
    return [
        f"Made {' and '.join(new)}; keep copies, and give them to nobody." if new else "Took the keys that are here.",
        f"Send {keys.request} to the operator, and tell its fingerprint on another way:",
        f"  {request.fingerprint()}",
        *_describe_roster(roster),
    ]


def main(argv: Sequence[str] | None = None) -> int:
    """The command line. Returns the exit status."""
    parser = cli.parser_of(__doc__)
    actions = parser.add_subparsers(dest="command", required=True)
    for name, meaning in (
        ("new", "make a key, and a request to enrol it; or a fresh request, if the first came too late"),
        ("renew", "make a request that the present key counts for longer"),
        ("rotate", "make the next key, and a request to take it"),
        ("activate", "use the next key, once it is listed"),
        ("show", "print what may be known of the key"),
        ("protect", f"encrypt the keys under {IDENTITY_PASSPHRASE}"),
        ("node", f"make the key of a Flower node, in {NODES}/"),
    ):
        action = actions.add_parser(name, help=meaning, description=meaning, allow_abbrev=False)
        action.add_argument("--client_id", type=int, required=True, metavar="N", help="this tenant's number")
        action.add_argument("--out", type=Path, required=True, metavar="DIR", help="the folder of this tenant's keys")
        if name not in ("protect", "node"):
            action.add_argument("--enrolled", type=Path, required=True, metavar="FILE", help="the operator's roster")
            action.add_argument("--signer", default="", metavar="HEX", help="who must have signed it")
    args = parser.parse_args(argv)
    return cli.run(lambda: print("\n".join(_run(_checked(args)))))


def _checked(args: argparse.Namespace) -> argparse.Namespace:
    if not 0 <= args.client_id < 10**9:
        raise ConfigError(f"--client_id {args.client_id}: expected a whole number from 0; the operator gives it out")
    return args


if __name__ == "__main__":
    sys.exit(main())
