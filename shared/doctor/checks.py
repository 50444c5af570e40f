"""Checks that both sides need. Each yields findings, or raises one of this project's errors, which is a finding."""

import ctypes
import hashlib
import importlib.util
import json
import os
import platform
import re
import resource
import shutil
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from importlib import metadata
from pathlib import Path
from typing import Final

from cryptography import x509
from cryptography.exceptions import InvalidSignature

from shared.bounded_files import MAX_CERTIFICATE_BYTES, read_bounded
from shared.config import Config, load_config
from shared.data_sources.dataset import Dataset
from shared.data_utils import feature_count, load_schema
from shared.doctor.findings import Finding, Level, Report
from shared.enrolment import Enrolment
from shared.errors import DataError, MissingDependencyError, NetworkError
from shared.roster import SOON_DAYS
from shared.task import training_settings

PROJECT: Final = "cloud-security-orchestrator"
_NEEDED: Final = {"flwr": ((1, 41), (1, 43)), "torch": ((2, 13), (2, 14)), "phe": ((1, 5), (1, 6))}
_PYTHONS: Final = ((3, 11), (3, 14))
_LEAST_BYTES, _ENOUGH_BYTES = 100 << 20, 1 << 30
_RESERVE: Final = 64  # descriptors for files, logs and libraries
_UNSYNCHRONISED: Final = 5  # TIME_ERROR of adjtimex(2)
_AGREED: Final = (
    "num_features", "num_hidden_units", "num_classes", "scaling", "he_scheme", "he_key_length", "he_packing",
    "he_precision_bits", "he_integer_bits", "num_clients", "secure_aggregation", "audit",
)  # fmt: skip


def settings_of(report: Report, path: str, overrides: Sequence[str]) -> Config | None:
    """The settings, and what the other end must have as well, into the report; None where they can't be read.

    Args:
        report: of either side.
        path: of the YAML file.
        overrides: `key=value`, as `--set` takes them.
    """
    loaded: list[Config] = []

    def settings() -> Iterator[Finding]:
        loaded.append(load_config(path, overrides))
        yield Finding("settings", Level.OK, f"{path}: {loaded[0].num_clients} tenants, {loaded[0].server_address}")

    report.look("settings", settings)
    report.look("version", check_versions)
    if not loaded:
        return None
    report.facts |= facts_of(loaded[0], datetime.now(UTC))
    return loaded[0]


def check_versions() -> Iterator[Finding]:
    """Python, and the libraries whose versions matter, against what this version was made for."""
    running = tuple(map(int, platform.python_version_tuple()[:2]))
    if not _PYTHONS[0] <= running < _PYTHONS[1]:
        yield Finding("version", Level.FAIL, f"Python {platform.python_version()}", "use Python 3.11 to 3.13")
    for name, (least, below) in _NEEDED.items():
        found = version_of(name)
        if not least <= _numbers(found) < below:
            said = f"{name} {found or 'is not installed'}, expected from {_dotted(least)}, below {_dotted(below)}"
            yield Finding("version", Level.FAIL, said, "pip install -r requirements.txt")
    try:
        import gmpy2  # noqa: F401  (`phe` does without, a hundred times slower)
    except ImportError:
        raise MissingDependencyError("gmpy2 is not installed; pip install -r requirements.txt") from None
    yield Finding("version", Level.OK, f"Python {platform.python_version()}, flwr {version_of('flwr')}")


def check_extras(config: Config, extras: Mapping[str, tuple[str, str]]) -> Iterator[Finding]:
    """Whether what the settings ask for is here: libraries that not everybody needs, and a model of the operator's own.

    The check of the data looks for those of object stores, and for a source of the operator's own.

    Args:
        config: the settings.
        extras: setting -> the module that it needs, and the extra of this project that installs it.

    Raises:
        ConfigError: `model` names a class that can't be used.
    """
    for setting, (module, extra) in extras.items():
        if not getattr(config, setting):
            continue
        if importlib.util.find_spec(module) is None:
            said = f"{setting} = {getattr(config, setting)!r}: needs {module}, which is not installed"
            yield Finding("extras", Level.FAIL, said, f"run: pip install -e '.[{extra}]', or leave {setting} out")
        else:
            yield Finding("extras", Level.OK, f"{module} for {setting}")
    if ":" in config.model:
        from shared.model import build_model  # PyTorch is seconds to load

        build_model(config)
        yield Finding("extras", Level.OK, f"model {config.model}")


def version_of(name: str) -> str:
    """Of an installed distribution; empty if it is not installed."""
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return ""


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in re.findall(r"\d+", version)[:2])


def _dotted(version: tuple[int, ...]) -> str:
    return ".".join(map(str, version))


def facts_of(config: Config, now: datetime) -> dict[str, str]:
    """What the other end must have as well, and the time."""
    agreed = {name: getattr(config, name) for name in _AGREED} | training_settings(config)
    digest = hashlib.sha256(json.dumps(agreed, sort_keys=True).encode()).hexdigest()
    return {"version": version_of(PROJECT), "flwr": version_of("flwr"), "settings": digest, "time": now.isoformat()}


def check_data(rows: Mapping[str, Dataset], config: Config, facts: dict[str, str]) -> Iterator[Finding]:
    """Rows, classes and columns; the schema's hash goes to the facts.

    Args:
        rows: by what they are for.
        config: the settings.
        facts: to add to.

    Raises:
        DataError: the columns are not as many as the settings say.
    """
    schema = load_schema(config)
    facts["schema"] = schema.hash()
    if feature_count(config) != config.num_features:
        raise DataError(
            f"the data has {feature_count(config)} features, num_features says {config.num_features}; set num_features "
            f"to {feature_count(config)} on both sides"
        )
    for what, part in rows.items():
        present = sorted({int(label) for label in part.labels})
        attacks = sum(int((part.labels == label).sum()) for label in present if label)
        said = f"{what}: {len(part):,} rows, {attacks:,} of them attacks, {config.num_features} columns, schema "
        said += facts["schema"][:16]
        if len(present) < 2:
            yield Finding("data", Level.WARN, said, f"all {what} rows are of one class: are the labels read as meant?")
        else:
            yield Finding("data", Level.OK, said)


def check_folder(log_dir: str) -> Iterator[Finding]:
    """Whether a run can write its files, and has room for them."""
    nearest = _nearest(Path(log_dir))
    if not _writable(nearest):
        yield Finding("files", Level.FAIL, f"{nearest}: can't be written to", "set log_dir to a folder of this user's")
        return
    free = shutil.disk_usage(nearest).free
    level = Level.OK if free >= _ENOUGH_BYTES else Level.WARN if free >= _LEAST_BYTES else Level.FAIL
    remedy = "" if level is Level.OK else "make room, or set log_dir to another disk"
    yield Finding("disk", level, f"{nearest}: {free / (1 << 30):.1f} GiB free", remedy)


def check_state(folder: Path) -> Iterator[Finding]:
    """Whether a side's memory can be kept in its folder, by this user alone."""
    nearest = _nearest(folder)
    if not _writable(nearest):
        remedy = "name a folder of this user's: log_dir, or state_dir of the policy of a tenant that has one"
        yield Finding("state", Level.FAIL, f"{nearest}: can't be written to", remedy)
    elif folder.exists() and folder.stat().st_mode & 0o077:
        yield Finding("state", Level.FAIL, f"{folder}: open to other users", f"run: chmod 700 {folder}")
    else:
        yield Finding("state", Level.OK, f"{folder}: what must not be forgotten")


def _nearest(folder: Path) -> Path:
    return next(place for place in (folder, *folder.absolute().parents) if place.exists())


def _writable(folder: Path) -> bool:
    return folder.is_dir() and os.access(folder, os.W_OK | os.X_OK)


def check_descriptors(needed: int) -> Iterator[Finding]:
    """Whether as many files and connections can be open at once.

    Args:
        needed: by connections.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = needed + _RESERVE
    if soft < wanted:
        more = f"run: ulimit -n {wanted}" + ("" if hard >= wanted else ", which needs a higher hard limit")
        yield Finding("descriptors", Level.FAIL, f"{soft} files may be open, {wanted} are needed", more)
    else:
        yield Finding("descriptors", Level.OK, f"{soft} files may be open")


def check_clock(since: Iterable[datetime]) -> Iterator[Finding]:
    """This clock, against days that are past for sure, and whether the kernel says that it is kept in time.

    Args:
        since: moments at which something was signed.
    """
    now = datetime.now(UTC)
    latest = max(since, default=now)
    if latest > now + timedelta(hours=1):
        said = f"it is {now:%Y-%m-%d %H:%M} UTC here, and something was signed at {latest:%Y-%m-%d %H:%M}: it is behind"
        yield Finding("clock", Level.FAIL, said, "set it by NTP")
    elif kernel_state() == _UNSYNCHRONISED:
        yield Finding("clock", Level.WARN, f"{now:%Y-%m-%d %H:%M:%S} UTC, and nothing keeps it in time", "run NTP")
    else:
        yield Finding("clock", Level.OK, f"{now:%Y-%m-%d %H:%M:%S} UTC")


def kernel_state() -> int:
    """What adjtimex(2) says of the clock; -1 where it says nothing."""
    try:
        return int(ctypes.CDLL(None).adjtimex(ctypes.create_string_buffer(1024)))  # modes = 0: it sets nothing
    except (OSError, AttributeError):
        return -1


def read_certificate(path: str) -> x509.Certificate:
    """A certificate's file.

    Raises:
        NetworkError: it can't be read, or is none.
    """
    try:
        return x509.load_pem_x509_certificate(read_bounded(path, MAX_CERTIFICATE_BYTES))
    except OSError as error:
        raise NetworkError(f"{path}: {error.strerror}; get it from whoever runs provision.py") from None
    except ValueError:
        raise NetworkError(f"{path}: no certificate in PEM; get it from whoever runs provision.py") from None


def check_signed(certificate: x509.Certificate, path: str, ca: x509.Certificate, ca_path: str) -> None:
    """That a certificate is of a CA.

    Args:
        certificate: the one.
        path: of its file.
        ca: the CA's own.
        ca_path: of its file.

    Raises:
        NetworkError: it is not.
    """
    try:
        certificate.verify_directly_issued_by(ca)
    except (ValueError, TypeError, InvalidSignature):
        raise NetworkError(
            f"{path}: not signed by the CA in {ca_path}, which the other side trusts; take both from one folder of "
            "orchestrator/provision.py"
        ) from None


def check_end(certificate: x509.Certificate, path: str, renew: str) -> Iterator[Finding]:
    """When a certificate ends.

    Args:
        certificate: the one.
        path: of its file.
        renew: what to do about its end.
    """
    now, end = datetime.now(UTC), certificate.not_valid_after_utc
    days = (end - now).days
    if certificate.not_valid_before_utc > now:
        begin = certificate.not_valid_before_utc
        yield Finding("certificate", Level.FAIL, f"{path}: begins on {begin:%Y-%m-%d %H:%M}", "set the clock by NTP")
    elif end < now:
        yield Finding("certificate", Level.FAIL, f"{path}: ended on {end:%Y-%m-%d}", renew)
    elif days < SOON_DAYS:
        yield Finding("certificate", Level.WARN, f"{path}: ends in {days} days", renew)
    else:
        yield Finding("certificate", Level.OK, f"{path}: valid until {end:%Y-%m-%d}")


def check_roster(roster: Enrolment, needed: int) -> Iterator[Finding]:
    """Who may take part, and how long.

    Args:
        roster: the present one.
        needed: tenants that a round needs.
    """
    counting = roster.public_keys()
    said = f"roster {roster.number}, {len(counting)} tenants may take part, fingerprint {roster.fingerprint}"
    if len(counting) < needed:
        yield Finding("roster", Level.FAIL, f"{said}; a round needs {needed}", "enrol more tenants, or renew them")
    else:
        yield Finding("roster", Level.OK, said)
