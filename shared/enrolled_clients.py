"""The lines of the roster: one for each client that was ever enrolled."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date
from typing import Any, Final

from shared.identity import NAME

_KEY: Final = re.compile("[0-9a-f]{64}")


@dataclass(frozen=True)
class EnrolledClient:
    """One line of the roster.

    Attributes:
        public_key: Ed25519, 64 hex digits.
        added: the day on which it was enrolled, UTC.
        expires: the last day on which it counts, UTC.
        revoked: whether it counts no more, whatever the day.
        former: keys that it had before; nobody may have one of them again.
    """

    public_key: str
    added: date
    expires: date
    revoked: bool = False
    former: tuple[str, ...] = ()


def is_public_key(value: object) -> bool:
    """Whether this is an Ed25519 public key as the roster writes it: 64 lower-case hex digits."""
    return isinstance(value, str) and _KEY.fullmatch(value) is not None


def parse_clients(raw: Mapping[str, Any]) -> dict[str, EnrolledClient]:
    """The lines of a roster, checked; no two clients have, or had, one key.

    Raises:
        ValueError: it says which client is wrong, and how.
    """
    clients: dict[str, EnrolledClient] = {}
    owners: dict[str, str] = {}
    for client_id, entry in raw.items():
        if not NAME.fullmatch(client_id):
            raise ValueError(f"client id {client_id[:64]!r} is not 1 to 64 letters, digits, '.', '_' or '-'")
        if not isinstance(entry, dict) or entry.keys() != {"public_key", "added", "expires", "revoked", "former"}:
            raise ValueError(
                f"client {client_id!r}: expected the keys 'public_key', 'added', 'expires', 'revoked' and 'former'"
            )
        public_key, former, revoked = entry["public_key"], entry["former"], entry["revoked"]
        if not isinstance(former, list) or not all(map(is_public_key, [public_key, *former])):
            raise ValueError(f"client {client_id!r}: expected a public key of 64 lower-case hex digits")
        if type(revoked) is not bool:
            raise ValueError(f"client {client_id!r}: expected 'revoked' to be true or false")
        for name in ("added", "expires"):
            if not isinstance(entry[name], str) or not re.fullmatch(r"\d{4}-\d\d-\d\d", entry[name], re.ASCII):
                raise ValueError(f"client {client_id!r}: expected {name!r} as a date such as 2026-01-31")
        for key in (public_key, *former):
            if key in owners:  # one tenant would count as two contributors, and see the other's share of a sum
                raise ValueError(f"clients {owners[key]!r} and {client_id!r} have the same public key")
            owners[key] = client_id
        added, expires = (date.fromisoformat(entry[name]) for name in ("added", "expires"))
        clients[client_id] = EnrolledClient(public_key, added, expires, revoked, tuple(former))
    return clients
