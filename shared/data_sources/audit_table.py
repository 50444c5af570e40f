"""What a service's audit record says, by a table of its fields: `audit_tables/` has the tables of some services, and a
person's own are of the same form (docs/sources.md shows one).

Principals are told apart by `Call.key`: the table, the scope, which field named them, and what it holds. So no two
share a key, whatever letters are in their names; who is not named is known by the address.
"""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict, ValidationError
from pydantic import Field as Setting

from shared.bounded_files import read_bounded
from shared.data_sources.record_fields import Conditions, Field, path_of, seconds_of, values_at
from shared.errors import ConfigError
from shared.yaml_values import parse_yaml

FOLDER = Path(__file__).parent / "audit_tables"
# A record is of the first table that it fits.
SERVICES = (
    "kubernetes", "kubernetes_aks", "gcp_audit", "okta", "entra_signin", "entra_signin_graph", "entra_audit",
    "azure_activity",
)  # fmt: skip
_MOST_BYTES = 1 << 18  # of a table
_MOST_TABLES = 100
_LONGEST_SHOWN = 200  # characters of a principal's name, for a person
_PORT = re.compile(r"(\d+\.\d+\.\d+\.\d+):\d+")


def _listed(value: Any) -> Any:
    items = value if isinstance(value, list) else [value]
    return tuple(str(item) if type(item) is int else item for item in items)


Texts = Annotated[tuple[Annotated[str, Setting(min_length=1)], ...], BeforeValidator(_listed), Setting(min_length=1)]
Tests = dict[str, Texts]


class _SigmaForm(BaseModel):
    """What a table may hold of Sigma rules."""

    model_config = ConfigDict(strict=True, extra="forbid", frozen=True)

    product: str
    service: str
    category: str = ""
    fields: Tests = {}


class _Form(BaseModel):
    """What a table may hold, as YAML has it."""

    model_config = ConfigDict(strict=True, extra="forbid", frozen=True)

    name: Annotated[str, Setting(pattern=r"^[a-z][a-z0-9_]{0,39}$")]
    records: Annotated[Tests, Setting(min_length=1)]
    left_out: Tests = {}
    time: Texts
    id: Texts | None = None
    absent: Texts | None = None
    scope: Texts | None = None
    principal: Texts
    principal_name: Texts | None = None
    machines: Tests = {}
    action: Texts
    any_case: bool = False
    any_case_principal: bool = False
    service: Texts | None = None
    account: Texts | None = None
    address: Texts | None = None
    region: Texts | None = None
    target: Texts | None = None
    failed: Tests = {}
    succeeded: Tests = {}
    denied: Tests = {}
    writes: Tests = {}
    sigma: _SigmaForm | None = None


_FIELDS = (
    "time", "id", "scope", "principal", "principal_name", "action", "service", "account", "address", "region", "target",
)  # fmt: skip
_TESTS = ("records", "left_out", "machines", "failed", "succeeded", "denied", "writes")


@dataclass(frozen=True)
class SigmaSource:
    """How Sigma rules call a service and its fields.

    Attributes:
        product: of the log source.
        service: of the log source.
        category: of the log source, where rules name one; empty for none.
        fields: the keys of a field in rules, and the paths in a record, of which the first that is there counts.
    """

    product: str
    service: str
    category: str
    fields: tuple[tuple[tuple[str, ...], tuple[tuple[str, ...], ...]], ...]

    def view(self, record: dict[str, Any]) -> dict[str, Any]:
        """The record, with the fields that rules have other names for."""
        seen = dict(record)
        for keys, paths in self.fields:
            value = next((value for path in paths for value in values_at(record, path)), None)
            inner = seen
            for key in keys[:-1]:
                inner[key] = dict(inner[key]) if isinstance(inner.get(key), dict) else {}
                inner = inner[key]
            if value is not None:
                inner[keys[-1]] = value
        return seen


@dataclass(frozen=True, eq=False)
class AuditTable:
    """The table of one service.

    Attributes:
        name: of the service.
        fields: where each of `_FIELDS` is.
        tests: what each of `_TESTS` asks of a record.
        absent: texts, case-folded, that stand for no value.
        any_case: whether actions that differ in case alone are one.
        any_case_principal: whether principals, and their scopes, that differ in case alone are one.
        sigma: how Sigma rules call the service; None where none are written for it.
    """

    name: str
    fields: Mapping[str, Field]
    tests: Mapping[str, Conditions]
    absent: frozenset[str]
    any_case: bool = False
    any_case_principal: bool = False
    sigma: SigmaSource | None = None

    def fits(self, record: Any) -> bool:
        """Whether a record is of this service."""
        return self.tests["records"].all(record)

    def left_out(self, record: Any) -> str:
        """Why a record of this service is no event, in words; empty for events."""
        return f"{self.name} records of its left_out" if self.tests["left_out"].any(record) else ""

    def paths(self, what: str) -> list[tuple[str, ...]]:
        """The paths in the record that one of the table's entries reads."""
        found = self.fields[what] if what in self.fields else self.tests[what]
        return list(found.paths)

    def call(self, record: Any) -> dict[str, Any]:
        """What features, labels and a reader's eye need of one record.

        Raises:
            ValueError: it has no time or action, or a time that is none.
        """
        told = {name: self._text(record, name) for name in ("time", "action", "service", "address")}
        for name in ("time", "action"):
            if not told[name]:
                raise ValueError(f"no {name} in a record of {self.name}: none of {', '.join(self.fields[name].names)}")
        action = told["action"].casefold() if self.any_case else told["action"]
        address = _PORT.sub(r"\1", told["address"])
        service = told["service"] or self.name
        named_by, parts = self.fields["principal"].parts(record, self.absent)
        scope = self.fields["scope"].parts(record, self.absent)[1]
        shown = self._text(record, "principal_name") or " ".join(filter(None, parts))
        if not parts:
            named_by, parts = "address", (address,)
            shown = shown or (f"unknown at {address}" if address else "unknown")
        if self.any_case_principal:
            scope, parts = (tuple(part.casefold() for part in texts) for texts in (scope, parts))
        denied = self.tests["denied"].any(record)
        return {
            "time": seconds_of(told["time"]),
            "key": json.dumps([self.name, scope, named_by, parts]),
            "principal": shown[:_LONGEST_SHOWN],
            "account": self._text(record, "account"),
            "event_id": self._text(record, "id"),
            "name": action,
            "service": service,
            "api": f"{service}:{action}",
            "region": self._text(record, "region"),
            "address": address,
            "target": self._text(record, "target"),
            "error": denied or self.tests["failed"].any(record) or self.tests["succeeded"].against(record),
            "denied": denied,
            "write": self.tests["writes"].any(record),
            "machine": self.tests["machines"].any(record),
        }

    def _text(self, record: Any, name: str) -> str:
        return self.fields[name].text(record, self.absent)


def shipped(names: tuple[str, ...] = SERVICES) -> tuple[AuditTable, ...]:
    """Tables that are part of this project."""
    return tuple(read_table(FOLDER / f"{name}.yaml", 0) for name in names)


def tables_of(audit_map: str) -> tuple[AuditTable, ...]:
    """The tables to read records by: a person's own first, then those of this project that have other names.

    Args:
        audit_map: the setting: a table, or a folder of them; empty for none.

    Raises:
        ConfigError: a table is missing or malformed, or two have one name.
    """
    own: list[AuditTable] = []
    for path in _files(Path(audit_map)) if audit_map else ():
        table = read_table(path, path.stat().st_mtime_ns)
        if table.name in {other.name for other in own}:
            raise ConfigError(f"audit_map {path}: a second table of the name {table.name!r}; give each its own")
        own.append(table)
    names = {table.name for table in own}
    return (*own, *(table for table in shipped() if table.name not in names))


def _files(path: Path) -> list[Path]:
    if path.is_file():
        return [path]
    files = sorted(file for file in path.glob("*.y*ml") if file.suffix in (".yaml", ".yml") and file.is_file())
    if not 0 < len(files) <= _MOST_TABLES:
        raise ConfigError(
            f"audit_map {path}: {len(files)} files; expected a table, or a folder with 1 to {_MOST_TABLES} that "
            "end in .yaml or .yml (docs/sources.md shows one)"
        )
    return files


@lru_cache(maxsize=256)
def read_table(path: Path, _changed: int) -> AuditTable:
    """One table.

    Raises:
        ConfigError: it can't be read, or is no such table.
    """
    try:
        form = _Form.model_validate(parse_yaml(read_bounded(path, _MOST_BYTES).decode()))
    except OSError as error:
        raise ConfigError(f"audit_map {path}: can't be read: {error.strerror}; expected a table of fields") from None
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"])) or "the table"
        known = ", ".join(_Form.model_fields)
        raise ConfigError(f"audit_map {path}: {where}: {first['msg']}; a table has {known}") from None
    except ValueError as error:  # no UTF-8, or no YAML
        raise ConfigError(f"audit_map {path}: {error}; expected a table of fields as YAML") from None
    return AuditTable(
        form.name,
        {name: Field.of(getattr(form, name) or ()) for name in _FIELDS},
        {name: Conditions.of(getattr(form, name)) for name in _TESTS},
        frozenset(text.casefold() for text in form.absent or ()),
        form.any_case,
        form.any_case_principal,
        _sigma(form.sigma) if form.sigma else None,
    )


def _sigma(form: _SigmaForm) -> SigmaSource:
    fields = tuple((path_of(name), tuple(map(path_of, paths))) for name, paths in form.fields.items())
    return SigmaSource(form.product, form.service, form.category, fields)
