"""Make the certificates of a federation, and enrol, renew and revoke its tenants: whoever runs this signs the roster.

python orchestrator/provision.py --clients 0 --out config/pki --host orchestrator.example.org   # tenants make keys
python orchestrator/provision.py --sign client-2.request.json --out config/pki                  # of client/enrol.py
python orchestrator/provision.py --certify client-2.request.json --out config/pki              # where ca.key is
python orchestrator/provision.py --revoke client-1 --out config/pki
python orchestrator/provision.py --renew_server --out config/pki   # the server's certificate, before it ends
python orchestrator/provision.py --upgrade --out config/pki        # sign a list of an earlier version

python orchestrator/provision.py --clients 3 --out config/pki      # for a demo: all tenants' keys in one place
python orchestrator/provision.py --add 2 --out config/pki
python orchestrator/provision.py --node_keys --out config/pki      # for Flower's SuperNodes, see docs/deployment.md

With the environment variable ORCHESTRATOR_KEY_PASSPHRASE set, the key that signs the roster is encrypted.
"""

import argparse
import re
import sys
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from orchestrator.certificates import SERVER_VALIDITY, Authority
from orchestrator.pki import (
    DEFAULT_DAYS,
    ENROLLED,
    LOCAL_HOSTS,
    NewFile,
    add_clients,
    add_node_keys,
    certificate_file,
    certify,
    provision,
    renew_server,
    revoke_client,
    sign_request,
    upgrade,
)
from shared import cli
from shared.enrolment import Enrolment
from shared.enrolment_request import EnrolmentRequest
from shared.errors import ConfigError
from shared.node_keys import NODES

MAX_CLIENTS: Final = 10_000
MOST_DAYS: Final = 3650


def _describe_clients(identities: Sequence[NewFile]) -> list[str]:
    if not identities:
        return [
            f"  each client     ca.pem and {ENROLLED}; it makes its own key and a request: client/enrol.py new",
            "Enrol each by its request: orchestrator/provision.py --sign client-N.request.json",
        ]
    keys = [file.name for file in identities if ".tls." not in file.name]
    shown = keys if len(keys) <= 5 else [*keys[:2], "...", keys[-1]]
    return [
        f"  each client     its own .key, .tls.key and .tls.pem, ca.pem and {ENROLLED}, the public keys of its peers:",
        *(f"                  {key}" for key in shown),
        "Hand each key to its one client over a channel you trust, and to nobody else.",
        "For more than a demo let the tenants make their keys themselves: --clients 0, and client/enrol.py.",
    ]


def _describe_certificate(folder: Path, request: EnrolmentRequest, path: Path) -> str:
    if Authority.find(folder) is None:
        return f"No ca.key is here: where it is, make the tenant's TLS certificate with --certify {path}."
    return f"Send it its TLS certificate, {folder / certificate_file(request.client_id)}."


def _describe_roster(folder: Path) -> list[str]:
    """What both sides compare."""
    roster = Enrolment.load(folder / ENROLLED)
    return [
        f"Roster {roster.number}, {len(roster.public_keys())} tenants may take part.",
        f"  fingerprint {roster.fingerprint}",
        f"  signer      {roster.signer}   (roster_signer, told to the tenants on another way)",
    ]


def _describe_node_keys(folder: Path, files: Sequence[NewFile]) -> list[str]:
    if not files:
        return [f"Each enrolled client has the key of its node in {folder / NODES}; nothing to do."]
    public = [file.name for file in files if file.name.endswith(".pub")]
    return [
        f"Made keys of {len(public)} nodes in {folder / NODES}. Give each private one to its tenant, and register the",
        "public ones with the SuperLink, by its name in Flower's configuration:",
        *(f"  flwr supernode register {folder / name} <superlink>" for name in public),
    ]


def _run(args: argparse.Namespace) -> list[str]:
    """Do what the command line asks, and say what was done."""
    folder: Path = args.out
    if args.host and args.clients is None:
        raise ConfigError("--host: the certificate's names are given once, with --clients; leave it out here")
    if args.fingerprint and args.sign is None:
        raise ConfigError("--fingerprint: it is compared with that of a request, --sign; leave it out here")
    copy = f"Copy {folder / ENROLLED} to the server and to every client."
    if args.revoke is not None:
        revoke_client(folder, args.revoke)
        return [f"Revoked {args.revoke}. {copy}", *_describe_roster(folder)]
    if args.sign is not None:
        request = EnrolmentRequest.load(args.sign)
        made = sign_request(folder, request, args.days, args.fingerprint)
        return [
            f"{request.title} until {made.clients[request.client_id].expires}. {copy}",
            _describe_certificate(folder, request, args.sign),
            f"  request     {request.fingerprint()}",
            *([] if args.fingerprint else ["  Ask the tenant, on another way, whether it has that fingerprint."]),
            *_describe_roster(folder),
        ]
    if args.certify is not None:
        return [f"Made {certify(folder, EnrolmentRequest.load(args.certify))}; send it to the tenant."]
    if args.upgrade:
        upgrade(folder, args.days)
        return [f"Signed the list in {folder}. {copy}", *_describe_roster(folder)]
    if args.renew_server:
        until = renew_server(folder).date()
        return [f"Made {folder / 'server.pem'} and its key anew, valid until {until}. Restart the server with them."]
    if args.node_keys:
        return _describe_node_keys(folder, add_node_keys(folder))
    if args.add is not None:
        added = add_clients(folder, args.add, args.days)
        return [
            f"Enrolled {args.add} more in {folder}. Copy {ENROLLED} to the server and to the present clients too.",
            *_describe_clients(added),
            *_describe_roster(folder),
        ]
    files = provision(folder, args.clients, args.host, args.days)
    until = (datetime.now(UTC) + SERVER_VALIDITY).date()
    return [
        f"Made a CA, a server certificate and identities ({args.clients}) in {folder}.",
        f"The certificate is for {', '.join(dict.fromkeys([*LOCAL_HOSTS, *args.host]))}; valid until {until}.",
        "Who gets what:",
        "  you, offline    ca.key and roster.key: they sign certificates and the roster; no running server needs them",
        f"  the server      server.pem, server.key, {ENROLLED}",
        *_describe_clients([file for file in files if file.name.startswith("clients/")]),
        *_describe_roster(folder),
    ]


def _whole(low: int, high: int) -> Callable[[str], int]:
    def parse(text: str) -> int:
        if not re.fullmatch(r"\d{1,5}", text, re.ASCII) or not low <= int(text) <= high:
            raise argparse.ArgumentTypeError(f"{text!r}: expected a whole number from {low} to {high}")
        return int(text)

    return parse


def main(argv: Sequence[str] | None = None) -> int:
    """The command line. Returns the exit status."""
    summary, _, commands = (__doc__ or "").partition("\n\n")
    parser = argparse.ArgumentParser(
        description=summary, epilog=commands, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    action = parser.add_mutually_exclusive_group(required=True)
    action.add_argument(
        "--clients",
        type=_whole(0, MAX_CLIENTS),
        metavar="N",
        help="make a new federation, with N clients' keys; 0: the clients make their own",
    )
    action.add_argument("--sign", type=Path, metavar="REQUEST", help="enrol or renew by a request of client/enrol.py")
    action.add_argument("--certify", type=Path, metavar="REQUEST", help="make the TLS certificate of a signed request")
    action.add_argument("--add", type=_whole(1, MAX_CLIENTS), metavar="N", help="make N more clients' keys, and enrol")
    action.add_argument("--upgrade", action="store_true", help="sign an enrolled.json of an earlier version")
    action.add_argument("--renew_server", action="store_true", help="make the server's key and certificate anew")
    action.add_argument("--node_keys", action="store_true", help="make keys for the Flower nodes of all clients")
    action.add_argument("--revoke", metavar="ID", help="revoke one client, such as client-1")
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="the federation's folder")
    parser.add_argument(
        "--days", type=_whole(1, MOST_DAYS), default=DEFAULT_DAYS, help="that an identity counts (default: %(default)s)"
    )
    parser.add_argument(
        "--fingerprint",
        default="",
        metavar="HEX",
        help="with --sign: of the request, as the tenant told it",
    )
    parser.add_argument(
        "--host",
        nargs="+",
        action="extend",
        default=[],
        metavar="NAME",
        help="with --clients: DNS names or IP addresses of the server, beside localhost",
    )
    args = parser.parse_args(argv)
    return cli.run(lambda: print("\n".join(_run(args))))


if __name__ == "__main__":
    sys.exit(main())
