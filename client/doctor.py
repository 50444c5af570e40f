r"""Look for what would keep a tenant out of a run, and say what to do about it, a line each.

python client/doctor.py --config config/secure.yaml --client_id 2
python client/doctor.py --config config/secure.yaml --client_id 2 --json
ssh SERVER python orchestrator/doctor.py --config FILE --json | python client/doctor.py --config FILE --client_id 2 \
    --against -

It reads, connects to the server, and changes nothing but its notes of rosters. The exit code is 1
if a line says FAIL.
"""

import socket
import stat
import sys
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime, time
from pathlib import Path
from typing import Final

from cryptography.x509.oid import NameOID

from client.channel import check_channel, load_client_certificate, proxy_for
from client.policy import Policy
from client.policy_keeper import PolicyKeeper, Sum
from client.state import state_folder
from shared import cli
from shared.addresses import split_address
from shared.config import Config
from shared.data_utils import load_client_data
from shared.doctor import checks
from shared.doctor.command_line import tell
from shared.doctor.findings import Finding, Level, Report, compare, read_facts
from shared.enrolment import Enrolment
from shared.errors import EnrolmentError, NetworkError, PolicyError
from shared.identity import ClientIdentity, identity_name
from shared.roster import SOON_DAYS, Roster

_PROBE_SECONDS: Final = 5.0


def examine(path: str, overrides: Sequence[str], client_id: int, against: str = "") -> Report:
    """All that can be found on a tenant's side.

    Args:
        path: of the YAML file.
        overrides: `key=value`, as `--set` takes them.
        client_id: the tenant's number.
        against: what the server's doctor printed with `--json`; empty: nothing is compared.
    """
    report = Report(identity_name(str(client_id)))
    config, signed = checks.settings_of(report, path, overrides), [datetime.min.replace(tzinfo=UTC)]
    if config is None:
        return report
    if config.client_identity:
        report.look("identity", lambda: _identity(config, client_id, report, signed))
    if config.tls_ca:
        report.look("certificate", lambda: _certificate(config, signed))
    if config.tls_client_certificate:
        report.look("certificate", lambda: _own_certificate(config, client_id))
    if config.tenant_policy:
        report.look("policy", lambda: _policy(config, client_id))
    report.look("clock", lambda: checks.check_clock(signed))
    report.look("proxy", lambda: _proxy(config))
    report.look("port", lambda: _port(config, client_id))
    report.look("data", lambda: _data(config, client_id, report))
    report.look("extras", lambda: checks.check_extras(config, {}))
    report.look("files", lambda: checks.check_folder(config.log_dir))
    report.look("state", lambda: checks.check_state(state_folder(config, client_id)))
    report.look("descriptors", lambda: checks.check_descriptors(16))
    if config.pinned_key_fingerprint:
        report.facts["public_key"] = " ".join(config.pinned_key_fingerprint)
    if against:
        report.look("against", lambda: compare(report.facts, read_facts(against), datetime.now(UTC)))
    return report


def _identity(config: Config, client_id: int, report: Report, signed: list[datetime]) -> Iterator[Finding]:
    name = identity_name(str(client_id))
    path = config.client_identity.replace("{client_id}", str(client_id))
    identity = ClientIdentity.load(path, name)
    yield Finding("identity", Level.OK, f"{path}: public key {identity.public_key_hex[:16]}…")
    if not config.enrolled_clients:
        return
    roster = Roster.of(config, state=state_folder(config, client_id)).read()
    report.facts["roster"] = roster.fingerprint
    signed += [datetime.combine(client.added, time(), UTC) for client in roster.clients.values()]
    yield from checks.check_roster(roster, config.fewest_contributors)
    if not config.roster_signer:
        remedy = f"ask the operator on another way whether it is {roster.signer}, and set roster_signer to it"
        yield Finding("roster", Level.WARN, "roster_signer is not set: the first signer is believed", remedy)
    yield from _own_entry(roster, identity)


def _own_entry(roster: Enrolment, identity: ClientIdentity) -> Iterator[Finding]:
    name = identity.client_id
    roster.public_key(name)
    listed = roster.clients[name]
    if listed.public_key != identity.public_key_hex:
        raise EnrolmentError(
            f"the roster lists another key for {name}; get the newest enrolled.json, or after a rotation run: "
            "client/enrol.py activate"
        )
    days = (listed.expires - roster.today).days
    if days < SOON_DAYS:
        yield Finding("enrolment", Level.WARN, f"{name}: ends in {days} days", "run: client/enrol.py renew")
    else:
        yield Finding("enrolment", Level.OK, f"{name}: enrolled until {listed.expires}")


def _policy(config: Config, client_id: int) -> Iterator[Finding]:
    path = config.tenant_policy.replace("{client_id}", str(client_id))
    rules = Policy.load(Path(path)).model_dump(exclude_defaults=True)
    from shared.model import build_model, get_parameters  # PyTorch is seconds to load

    keeper = PolicyKeeper.of(config, client_id, sum(p.size for p in get_parameters(build_model(config))))
    for kind in (Sum.TRAINING, *((Sum.EVALUATION,) if config.fraction_evaluate else ()), Sum.STATISTICS):
        try:
            keeper.check(kind, config.fewest_contributors)
            for pinned in config.pinned_key_fingerprint:
                keeper.check_key(pinned)
        except PolicyError as error:
            remedy = f"change the settings, or {path}; as it is this tenant stays out"
            yield Finding("policy", Level.FAIL, f"{kind}: {error}", remedy)
    yield Finding("policy", Level.OK, f"{path}: {', '.join(rules) or 'no rules'}")


def _certificate(config: Config, signed: list[datetime]) -> Iterator[Finding]:
    certificate = checks.read_certificate(config.tls_ca)
    mode = stat.S_IMODE(Path(config.tls_ca).stat().st_mode)
    if mode & 0o022:
        said = f"{config.tls_ca}: mode {mode:04o} lets other users say which server is believed"
        yield Finding("certificate", Level.WARN, said, f"run: chmod go-w {config.tls_ca}")
    signed.append(certificate.not_valid_before_utc)
    yield from checks.check_end(certificate, config.tls_ca, "get the ca.pem of a federation that was made anew")


def _own_certificate(config: Config, client_id: int) -> Iterator[Finding]:
    path, name = load_client_certificate(config, client_id).path, identity_name(str(client_id))
    own = checks.read_certificate(path)
    yield from checks.check_end(own, path, "run: client/enrol.py renew")
    whose = [attribute.value for attribute in own.subject.get_attributes_for_oid(NameOID.COMMON_NAME)]
    if whose != [name]:
        raise NetworkError(
            f"{path}: the certificate of {', '.join(map(str, whose)) or 'nobody'}, not of {name}: the server refuses "
            f"it; get the one of {name} from the operator, and set tls_client_certificate to it"
        )
    checks.check_signed(own, path, checks.read_certificate(config.tls_ca), config.tls_ca)


def _proxy(config: Config) -> Iterator[Finding]:
    host, _ = split_address(config.server_address)
    name = proxy_for(config.server_address)
    if name:
        yield Finding("proxy", Level.WARN, f"{name} sends gRPC by way of a proxy", f"if it can't pass: no_proxy={host}")
    else:
        yield Finding("proxy", Level.OK, "none for the server")


def _port(config: Config, client_id: int) -> Iterator[Finding]:
    host, port = split_address(config.server_address)
    try:
        socket.create_connection((host, port), timeout=_PROBE_SECONDS).close()
    except OSError as error:
        said = f"{config.server_address}: {error.strerror or error}"
        remedy = "start orchestrator/run_server.py, or open the way to it: address, firewall, name"
        yield Finding("port", Level.FAIL, said, remedy)
        return
    check_channel(config, load_client_certificate(config, client_id) if config.tls_client_certificate else None)
    yield Finding("port", Level.OK, f"{config.server_address} answers, TLS {'on' if config.tls_ca else 'off'}")


def _data(config: Config, client_id: int, report: Report) -> Iterator[Finding]:
    rows = load_client_data(config, client_id)
    yield from checks.check_data({"training": rows.train, "held-out": rows.holdout}, config, report.facts)


def main(argv: Sequence[str] | None = None) -> int:
    """The command line. Returns the exit status."""
    parser = cli.parser_of(__doc__)
    parser.add_argument("--client_id", type=int, required=True, metavar="N", help="this tenant's number")
    return tell(parser, argv, lambda args: examine(args.config, args.set, args.client_id, args.against))


if __name__ == "__main__":
    sys.exit(main())
