"""Look for what would keep the server from a run, and say what to do about it, a line each.

python orchestrator/doctor.py --config config/secure.yaml
python orchestrator/doctor.py --config config/secure.yaml --json            # for client/doctor.py --against, too
python orchestrator/doctor.py --config config/secure.yaml --against tenant.json

It reads, asks for the port, and changes nothing but its notes in `<log_dir>/state`. The exit code is 1
if a line says FAIL.
"""

import sys
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime, time
from functools import partial
from ipaddress import ip_address
from pathlib import Path
from typing import Final

from cryptography import x509

from orchestrator.doors import RENEW, Certificates
from orchestrator.ports import check_port_free
from shared import cli
from shared.addresses import split_address
from shared.config import Config
from shared.data_utils import load_test_data, load_validation_data
from shared.doctor import checks
from shared.doctor.command_line import tell
from shared.doctor.findings import Finding, Level, Report, compare, read_facts
from shared.errors import KeyMaterialError
from shared.key_files import load_key, passphrase_from_environment
from shared.roster import Roster

_LISTENING: Final = ("server_address", "metrics_address", "live_address")
_EXTRAS: Final = {
    "metrics_address": ("prometheus_client", "metrics"),
    "tensorboard_dir": ("tensorboard", "tensorboard"),
    "mlflow_tracking_uri": ("mlflow", "mlflow"),
}  # setting -> what it imports, and the extra that installs it


def examine(path: str, overrides: Sequence[str], against: str = "") -> Report:
    """All that can be found on the server's side.

    Args:
        path: of the YAML file.
        overrides: `key=value`, as `--set` takes them.
        against: what a tenant's doctor printed with `--json`; empty: nothing is compared.
    """
    report = Report("server")
    config, signed = checks.settings_of(report, path, overrides), [datetime.min.replace(tzinfo=UTC)]
    if config is None:
        return report
    if config.enrolled_clients:
        report.look("roster", lambda: _roster(config, report, signed))
    if config.tls_certificate:
        report.look("certificate", lambda: _certificates(config, signed))
    if config.he_key_file:
        report.look("key", lambda: _key(config, report))
    report.look("clock", lambda: checks.check_clock(signed))
    for setting in _LISTENING:
        report.look("port", partial(_port, config, setting))
    report.look("extras", lambda: checks.check_extras(config, _EXTRAS))
    report.look("data", lambda: _data(config, report))
    report.look("files", lambda: checks.check_folder(config.log_dir))
    report.look("state", lambda: checks.check_state(Path(config.log_dir) / "state"))
    # A client's socket, what gRPC holds beside it, and newcomers that have not said who they are.
    report.look("descriptors", lambda: checks.check_descriptors(2 * config.num_clients + 256))
    if against:
        report.look("against", lambda: compare(report.facts, read_facts(against), datetime.now(UTC)))
    return report


def _roster(config: Config, report: Report, signed: list[datetime]) -> Iterator[Finding]:
    roster = Roster.of(config).read()
    report.facts["roster"] = roster.fingerprint
    signed += [datetime.combine(client.added, time(), UTC) for client in roster.clients.values()]
    yield from checks.check_roster(roster, config.min_available_clients)
    for name in ("roster.key", "ca.key"):
        beside = Path(config.enrolled_clients).with_name(name)
        if beside.exists():
            said = f"{beside}: no running server needs it, and whoever takes it can enrol or pose as a server"
            yield Finding("files", Level.WARN, said, "move it off this machine")


def _certificates(config: Config, signed: list[datetime]) -> Iterator[Finding]:
    ca, own = checks.read_certificate(config.tls_ca), checks.read_certificate(config.tls_certificate)
    signed.append(own.not_valid_before_utc)
    yield from checks.check_end(ca, config.tls_ca, "make the federation anew, with a CA of its own")
    yield from checks.check_end(own, config.tls_certificate, RENEW)
    checks.check_signed(own, config.tls_certificate, ca, config.tls_ca)
    Certificates.load(config)
    host, _ = split_address(config.server_address)
    if host not in ("0.0.0.0", "::") and not _is_for(own, host):  # noqa: S104 (no address to bind to here)
        remedy = "make the federation with --host, or have server_address name one of them"
        yield Finding("certificate", Level.FAIL, f"{config.tls_certificate}: not for {host!r}", remedy)


def _is_for(certificate: x509.Certificate, host: str) -> bool:
    try:
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        return False
    try:
        return ip_address(host) in names.get_values_for_type(x509.IPAddress)
    except ValueError:
        return host.lower() in names.get_values_for_type(x509.DNSName)


def _key(config: Config, report: Report) -> Iterator[Finding]:
    key = load_key(config.he_key_file, passphrase_from_environment())
    fingerprint = report.facts["public_key"] = key.public.fingerprint()
    if key.key_length != config.he_key_length:
        raise KeyMaterialError(
            f"{config.he_key_file}: {key.key_length} bits, he_key_length says {config.he_key_length}; set it to "
            "the key's"
        )
    if config.pinned_key_fingerprint and fingerprint not in config.pinned_key_fingerprint:
        raise KeyMaterialError(
            f"{config.he_key_file}: fingerprint {fingerprint}, tenants with this file insist on "
            f"{' or '.join(config.pinned_key_fingerprint)}; set pinned_key_fingerprint to the key's"
        )
    yield Finding("key", Level.OK, f"{config.he_key_file}: {key.key_length} bits, fingerprint {fingerprint}")


def _port(config: Config, setting: str) -> Iterator[Finding]:
    where = getattr(config, setting)
    if where:
        check_port_free(where, setting)
        yield Finding("port", Level.OK, f"{where} is free")


def _data(config: Config, report: Report) -> Iterator[Finding]:
    rows = {"validation": load_validation_data(config), "test": load_test_data(config)}
    yield from checks.check_data(rows, config, report.facts)


def main(argv: Sequence[str] | None = None) -> int:
    """The command line. Returns the exit status."""
    return tell(cli.parser_of(__doc__), argv, lambda args: examine(args.config, args.set, args.against))


if __name__ == "__main__":
    sys.exit(main())
