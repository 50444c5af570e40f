"""Keys that tenants make at home: requests, renewals, rotations, and a roster that is signed and never goes back."""

import contextlib
import json
import os
import ssl
import stat
from collections.abc import Callable
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from client import enrol
from client.enrol import Keys, public_hex
from client.launch import load_identity
from client.run_clients import _parse_ids
from client.tenant import Tenant
from orchestrator import provision as provisioning
from orchestrator.coordinator import Coordinator
from orchestrator.pki import (
    add_clients,
    certify,
    identity_settings,
    provision,
    renew_server,
    revoke_client,
    sign_request,
    upgrade,
)
from shared.config import Config
from shared.data_utils import load_client_data
from shared.enrolment import ROSTER_PREFIX, Enrolment, parse_unsigned
from shared.enrolment_request import REQUEST_PREFIX, EnrolmentRequest, Present, make_certificate_request
from shared.errors import ConfigError, EnrolmentError, Flaw, KeyMaterialError, PassphraseError, Reason
from shared.identity import GREETING_PREFIX, STATEMENT_PREFIX, ClientIdentity
from shared.identity_files import IDENTITY_PASSPHRASE, encode_identity, load_identity_key
from shared.key_files import PASSPHRASE_VARIABLE
from shared.masking.codec import MAGIC
from shared.private_files import make_private_folder
from shared.roster import Roster, days_left
from tests.breaking import breaks
from tests.federations import masked_settings, open_in_memory
from tests.test_provision import certificate, handshake

TODAY = datetime.now(UTC).date()


@pytest.fixture
def pki(tmp_path: Path) -> Path:
    """A federation whose tenants make their own keys."""
    provision(tmp_path / "pki", 0, [])
    return tmp_path / "pki"


def roster_of(pki: Path) -> Enrolment:
    return Enrolment.load(pki / "enrolled.json")


def at_home(tmp_path: Path, number: int = 2) -> Keys:
    return Keys(tmp_path / f"home-{number}", number)


def sign(pki: Path, keys: Keys, days: int = 365) -> Enrolment:
    return sign_request(pki, EnrolmentRequest.load(keys.request), days)


def enrolled(tmp_path: Path, pki: Path, number: int = 2, days: int = 365) -> Keys:
    keys = at_home(tmp_path, number)
    keys.new(roster_of(pki))
    sign(pki, keys, days)
    return keys


def altered(path: Path, **changes: Any) -> Path:
    raw = json.loads(path.read_bytes())
    path.write_text(json.dumps(raw | changes))
    return path


# A tenant's keys, and its request


def test_a_tenant_makes_its_key_and_nobody_else_sees_it(tmp_path: Path, pki: Path) -> None:
    keys = enrolled(tmp_path, pki)
    identity = ClientIdentity.load(keys.path, "client-2")
    assert stat.S_IMODE(keys.path.stat().st_mode) == 0o600
    assert roster_of(pki).clients["client-2"].public_key == identity.public_key_hex
    secret = identity.signing_key.private_bytes_raw().hex()
    for path in (*pki.rglob("*"), keys.request):
        assert path.is_dir() or secret not in path.read_text(), path
    assert {path.name for path in (pki / "clients").iterdir()} == {"client-2.tls.pem"}


def test_both_sides_show_one_fingerprint(tmp_path: Path, pki: Path, capsys: pytest.CaptureFixture[str]) -> None:
    common = ["--client_id", "2", "--enrolled", str(pki / "enrolled.json"), "--out", str(tmp_path / "home")]
    assert enrol.main(["new", *common]) == 0
    told = EnrolmentRequest.load(tmp_path / "home/client-2.request.json").fingerprint()
    assert told in capsys.readouterr().out
    sign_it = ["--sign", str(tmp_path / "home/client-2.request.json"), "--out", str(pki), "--fingerprint", told]
    assert provisioning.main(sign_it) == 0
    signed = capsys.readouterr().out
    assert enrol.main(["show", *common]) == 0
    shown = capsys.readouterr().out
    roster = roster_of(pki)
    for words in (roster.fingerprint, roster.signer):
        assert words in signed
        assert words in shown
    assert "(365 days)" in shown


def test_a_tenant_gets_a_certificate_of_the_key_that_it_made(tmp_path: Path, pki: Path) -> None:
    keys = enrolled(tmp_path, pki, days=20)
    made = certificate(pki / "clients/client-2.tls.pem")
    assert made.public_key() == keys.load_tls().public_key()
    assert made.subject.rfc4514_string() == "CN=client-2"
    assert made.not_valid_after_utc.date() == roster_of(pki).clients["client-2"].expires + timedelta(days=1)
    made.verify_directly_issued_by(certificate(pki / "ca.pem"))
    assert stat.S_IMODE(keys.tls_key.stat().st_mode) == 0o600
    keys.renew(roster_of(pki))
    sign(pki, keys, days=300)
    renewed = certificate(pki / "clients/client-2.tls.pem")
    assert (renewed.public_key(), renewed.not_valid_after_utc > made.not_valid_after_utc) == (made.public_key(), True)


def test_a_certificate_is_made_where_the_ca_key_is(tmp_path: Path, pki: Path) -> None:
    away = pki / "ca.key"
    elsewhere = away.rename(tmp_path / "ca.key")
    keys = enrolled(tmp_path, pki)
    path, request = pki / "clients/client-2.tls.pem", EnrolmentRequest.load(keys.request)
    assert not path.exists()
    with pytest.raises(KeyMaterialError, match="it is kept offline"):
        certify(pki, request)
    elsewhere.rename(away)
    assert certify(pki, request) == path
    assert certificate(path).public_key() == keys.load_tls().public_key()
    path.unlink()
    keys.rotate(roster_of(pki))  # not signed, so its key is not listed
    with pytest.raises(EnrolmentError, match="of another key than the roster lists"):
        certify(pki, EnrolmentRequest.load(keys.request))
    revoke_client(pki, "client-2")
    with breaks(Flaw.REVOKED):
        certify(pki, request)
    assert not path.exists()


def test_a_certificate_request_in_anothers_name_is_refused(tmp_path: Path, pki: Path) -> None:
    """Signed by the tenant, as the rest is: a careless operator would make it another's certificate."""
    keys, key = at_home(tmp_path), Ed25519PrivateKey.generate()
    make_private_folder(keys.folder)
    theirs = make_certificate_request("client-0", ec.generate_private_key(ec.SECP256R1()))
    other = make_certificate_request("client-2", ec.generate_private_key(ec.SECP384R1()))
    for asked in (theirs, other, "-----BEGIN CERTIFICATE REQUEST-----", "x"):
        request = EnrolmentRequest(roster_of(pki).signer, "client-2", public_hex(key), None, TODAY, asked)
        keys.request.write_bytes(request.signed(key))
        with pytest.raises(EnrolmentError, match="no request"):
            EnrolmentRequest.load(keys.request)


def test_a_request_with_another_fingerprint_than_the_tenant_told_is_refused(tmp_path: Path, pki: Path) -> None:
    keys = at_home(tmp_path)
    keys.new(roster_of(pki))
    with pytest.raises(EnrolmentError, match="not the one that the tenant made"):
        sign_request(pki, EnrolmentRequest.load(keys.request), fingerprint="ab" * 32)
    assert roster_of(pki).clients == {}


CHANGES: list[dict[str, Any]] = [
    {"client_id": "client-3"},
    {"client_id": "../client"},
    {"public_key": "ab" * 32},
    {"federation": "ab" * 32},
    {"made": "2020-01-01"},
    {"of": {"public_key": "ab" * 32, "expires": "2026-01-01"}},
    {"consent": "ab" * 64},
    {"signature": "ab" * 64},
    {"signature": ""},
    {"version": 3},
    {"certificate_request": ""},
    {"certificate_request": "-----BEGIN CERTIFICATE REQUEST-----"},
    {"more": 1},
]


@pytest.mark.parametrize("change", CHANGES, ids=lambda change: next(iter(change)))
def test_an_altered_request_is_refused(tmp_path: Path, pki: Path, change: dict[str, Any]) -> None:
    keys = at_home(tmp_path)
    keys.new(roster_of(pki))
    EnrolmentRequest.load(keys.request)  # as it was made, it is taken
    with pytest.raises(EnrolmentError, match="no request") as caught:
        EnrolmentRequest.load(altered(keys.request, **change))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("data", [b"", b"{}", b"[]", b"\xff", b"[" * 10_000, b"{" + b" " * 20_000])
def test_what_is_no_request_is_refused(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "request").write_bytes(data)
    with pytest.raises(EnrolmentError):
        EnrolmentRequest.load(tmp_path / "request")


def test_a_request_in_anothers_name_is_refused(tmp_path: Path, pki: Path) -> None:
    """Without the consent of its present key nobody renews a name, takes it over, or is enrolled under it again."""
    victim = enrolled(tmp_path, pki)
    listed = roster_of(pki).clients["client-2"]
    mallory = Ed25519PrivateKey.generate()
    of = Present(listed.public_key, listed.expires)
    takeover = EnrolmentRequest(roster_of(pki).signer, "client-2", public_hex(mallory), of, TODAY)
    victim.request.write_bytes(takeover.signed(mallory, mallory))
    with pytest.raises(EnrolmentError, match="altered, or not signed"):
        EnrolmentRequest.load(victim.request)
    fresh = EnrolmentRequest(roster_of(pki).signer, "client-2", public_hex(mallory), None, TODAY)
    victim.request.write_bytes(fresh.signed(mallory))
    with pytest.raises(EnrolmentError, match="given out once"):
        sign(pki, victim)
    own = Present(public_hex(mallory), listed.expires)  # of a state that the roster never had
    victim.request.write_bytes(
        EnrolmentRequest(roster_of(pki).signer, "client-2", public_hex(mallory), own, TODAY).signed(mallory, mallory)
    )
    with pytest.raises(EnrolmentError, match="earlier state"):
        sign(pki, victim)
    assert roster_of(pki).clients == {"client-2": listed}


def test_no_key_is_anothers_or_was(tmp_path: Path, pki: Path) -> None:
    """One tenant under two names would count twice in a sum, and see the other's share of it."""
    keys = enrolled(tmp_path, pki)
    first = keys.load()
    keys.rotate(roster_of(pki))
    sign(pki, keys)
    for key in (first, load_identity_key(keys.next, "client-2", "")):
        second = EnrolmentRequest(roster_of(pki).signer, "client-3", public_hex(key), None, TODAY)
        keys.request.write_bytes(second.signed(key))
        with pytest.raises(EnrolmentError, match="has or had this public key"):
            sign(pki, keys)


def test_a_request_counts_once(tmp_path: Path, pki: Path) -> None:
    keys = enrolled(tmp_path, pki)
    certificate = pki / "clients" / "client-2.tls.pem"
    certificate.unlink()  # the first signing was killed before it
    with pytest.raises(EnrolmentError, match=r"was signed before, and the roster lists client-2 .* --certify"):
        sign(pki, keys)
    assert certify(pki, EnrolmentRequest.load(keys.request)) == certificate
    revoke_client(pki, "client-2")
    with pytest.raises(EnrolmentError, match="given out once"):
        sign(pki, keys)


def test_a_renewal_counts_once(tmp_path: Path, pki: Path) -> None:
    keys = enrolled(tmp_path, pki)
    keys.renew(roster_of(pki))
    sign(pki, keys, days=500)
    with pytest.raises(EnrolmentError, match="it was signed before"):
        sign(pki, keys, days=900)
    keys.rotate(roster_of(pki))
    sign(pki, keys, days=500)
    with pytest.raises(EnrolmentError, match="it was signed before"):
        sign(pki, keys)


@pytest.mark.parametrize(("age", "taken"), [(30, True), (31, False), (-1, True), (-2, False)])
def test_a_request_that_was_held_back_is_refused(tmp_path: Path, pki: Path, age: int, taken: bool) -> None:
    key = Ed25519PrivateKey.generate()
    made = TODAY - timedelta(days=age)
    (tmp_path / "request").write_bytes(
        EnrolmentRequest(roster_of(pki).signer, "client-2", public_hex(key), None, made).signed(key)
    )
    remedy = "set the clock that is wrong by NTP" if age < 0 else "have it made anew"
    expected: Any = contextlib.nullcontext() if taken else pytest.raises(EnrolmentError, match=remedy)
    with expected:
        sign_request(pki, EnrolmentRequest.load(tmp_path / "request"))


@pytest.mark.parametrize("kind", ["new", "rotate"])
@pytest.mark.parametrize("earlier", ["late", "lost", "spoilt"])
def test_a_request_that_came_too_late_is_made_afresh_with_the_same_keys(
    tmp_path: Path, pki: Path, monkeypatch: pytest.MonkeyPatch, kind: str, earlier: str
) -> None:
    keys = enrolled(tmp_path, pki) if kind == "rotate" else at_home(tmp_path)
    getattr(keys, kind)(roster_of(pki))
    asked = keys.next if kind == "rotate" else keys.path
    before = [path.read_bytes() for path in (asked, keys.tls_key)]
    if earlier == "lost":
        keys.request.unlink()
    elif earlier == "spoilt":
        keys.request.write_text("{}")
    else:
        with monkeypatch.context() as later:
            later.setattr("shared.enrolment_request.LIFETIME", timedelta(days=-1))
            with pytest.raises(EnrolmentError, match=rf"client/enrol.py .*{kind}.* with the same keys"):
                sign(pki, keys)
    getattr(keys, kind)(roster_of(pki))
    assert [path.read_bytes() for path in (asked, keys.tls_key)] == before
    sign(pki, keys)
    assert roster_of(pki).clients["client-2"].public_key == public_hex(load_identity_key(asked, "client-2", ""))


def test_a_key_asks_for_a_place_in_one_federation(tmp_path: Path, pki: Path) -> None:
    provision(tmp_path / "other", 0, [])
    keys = at_home(tmp_path)
    keys.new(roster_of(tmp_path / "other"))
    before = keys.request.read_bytes()
    with pytest.raises(KeyMaterialError, match="a key is for one of them: choose another --out"):
        keys.new(roster_of(pki))
    assert keys.request.read_bytes() == before


def test_a_request_for_another_federation_is_refused(tmp_path: Path, pki: Path) -> None:
    provision(tmp_path / "other", 0, [])
    keys = at_home(tmp_path)
    keys.new(roster_of(tmp_path / "other"))
    with pytest.raises(EnrolmentError, match="for the federation whose roster"):
        sign(pki, keys)


# Renewal, rotation, expiry, revocation


def test_a_renewal_keeps_the_key_and_moves_the_end(tmp_path: Path, pki: Path) -> None:
    keys = enrolled(tmp_path, pki, days=10)
    before = roster_of(pki)
    assert days_left(before) == {"client-2": 10}
    keys.renew(before)
    after = sign(pki, keys, days=365)
    assert after.clients["client-2"].public_key == before.clients["client-2"].public_key
    assert (days_left(after), after.number) == ({"client-2": 365}, before.number + 1)


def test_a_rotation_takes_the_new_key_once_the_roster_lists_it(tmp_path: Path, pki: Path) -> None:
    keys = enrolled(tmp_path, pki)
    old = public_hex(keys.load())
    keys.rotate(roster_of(pki))
    with pytest.raises(EnrolmentError, match="lists another key"):
        keys.activate(roster_of(pki))
    assert public_hex(keys.load()) == old, "in use until the new one is listed"
    sign(pki, keys)
    keys.activate(roster_of(pki))
    listed = roster_of(pki).clients["client-2"]
    assert (listed.public_key, listed.former) == (public_hex(keys.load()), (old,))
    assert not keys.next.exists()


@pytest.mark.parametrize("ask", [Keys.renew, Keys.rotate])
def test_who_is_revoked_or_expired_is_not_renewed(
    tmp_path: Path, pki: Path, ask: Callable[[Keys, Enrolment], object]
) -> None:
    """Not even by a request that it made while it counted."""
    keys = enrolled(tmp_path, pki, days=1)
    ask(keys, roster_of(pki))
    later = roster_of(pki).as_of(TODAY + timedelta(days=2))
    with breaks(Flaw.EXPIRED, match="its enrolment ended on"):
        ask(keys, later)
    with breaks(Flaw.EXPIRED):
        later.renewed("client-2", "ab" * 32, date.max)
    revoke_client(pki, "client-2")
    with breaks(Flaw.REVOKED):
        ask(keys, roster_of(pki))
    with breaks(Flaw.REVOKED):
        sign(pki, keys)


def test_the_last_day_still_counts(tmp_path: Path, pki: Path) -> None:
    enrolled(tmp_path, pki, days=5)
    roster = roster_of(pki)
    last = roster.clients["client-2"].expires
    assert list(roster.as_of(last).public_keys()) == ["client-2"]
    assert list(roster.as_of(last + timedelta(days=1)).public_keys()) == []
    with breaks(Flaw.EXPIRED, match=rf"ended on {last}"):
        roster.as_of(last + timedelta(days=1)).public_key("client-2")


# Passphrases, and key files that others could exchange


def test_a_passphrase_closes_an_identity_and_its_name_is_bound_to_it(
    tmp_path: Path, pki: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(IDENTITY_PASSPHRASE, "correct horse")
    keys = enrolled(tmp_path, pki)
    secret = keys.load().private_bytes_raw().hex()
    assert secret not in keys.path.read_text()
    with pytest.raises(KeyMaterialError, match="the key of 'client-2', expected that of 'client-3'"):
        ClientIdentity.load(keys.path, "client-3")
    monkeypatch.setenv(IDENTITY_PASSPHRASE, "wrong")
    with pytest.raises(PassphraseError, match=f"check {IDENTITY_PASSPHRASE}"):
        keys.load()
    monkeypatch.setenv(IDENTITY_PASSPHRASE, "")
    with pytest.raises(PassphraseError, match="set but empty"):
        keys.load()
    monkeypatch.delenv(IDENTITY_PASSPHRASE)
    with pytest.raises(PassphraseError, match=f"set the environment variable {IDENTITY_PASSPHRASE}"):
        keys.load()
    monkeypatch.setenv(IDENTITY_PASSPHRASE, "correct horse")
    with pytest.raises(PassphraseError, match="or the file was changed"):
        ClientIdentity.load(altered(keys.path, name="client-3"), "client-3")


def test_a_passphrase_is_put_on_a_key_of_the_demo(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    provision(tmp_path / "pki", 1, [])
    keys = Keys(tmp_path / "pki/clients", 0)
    before = public_hex(keys.load())
    with pytest.raises(PassphraseError, match="no passphrase"):
        keys.protect()
    monkeypatch.setenv(IDENTITY_PASSPHRASE, "correct horse")
    keys.protect()
    assert public_hex(keys.load()) == before
    monkeypatch.delenv(IDENTITY_PASSPHRASE)
    with pytest.raises(PassphraseError):
        keys.load()


def test_a_passphrase_is_put_on_every_key_of_the_tenant_and_on_none_if_one_is_spoilt(
    tmp_path: Path, pki: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The next key, made for a rotation, signs as the tenant once it is listed."""
    keys = enrolled(tmp_path, pki)
    keys.rotate(roster_of(pki))
    private = [keys.path, keys.next, keys.tls_key]
    before = [path.read_bytes() for path in private]
    monkeypatch.setenv(IDENTITY_PASSPHRASE, "correct horse")
    overwritten = keys.next.read_bytes()
    keys.next.write_bytes(b"spoilt")
    with pytest.raises(KeyMaterialError):
        keys.protect()
    keys.next.write_bytes(overwritten)
    assert [path.read_bytes() for path in private] == before
    assert keys.protect() == private
    assert {path.name for path in keys.folder.iterdir() if b"PRIVATE KEY" in path.read_bytes()} == {keys.tls_key.name}
    assert b"ENCRYPTED" in keys.tls_key.read_bytes()
    for path in private[:2]:
        assert json.loads(path.read_bytes())["protection"] is not None
    sign(pki, keys)
    monkeypatch.delenv(IDENTITY_PASSPHRASE)
    with pytest.raises(PassphraseError):
        keys.activate(roster_of(pki))
    monkeypatch.setenv(IDENTITY_PASSPHRASE, "correct horse")
    keys.activate(roster_of(pki))
    assert keys.protect() == [keys.path, keys.tls_key], "again, where all are encrypted"


def test_the_key_that_signs_the_roster_has_a_passphrase_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(PASSPHRASE_VARIABLE, "correct horse")
    provision(tmp_path / "pki", 2, [])
    revoke_client(tmp_path / "pki", "client-0")
    monkeypatch.delenv(PASSPHRASE_VARIABLE)
    with pytest.raises(PassphraseError):
        revoke_client(tmp_path / "pki", "client-1")


def test_a_tampered_identity_is_refused(tmp_path: Path) -> None:
    key, other = Ed25519PrivateKey.generate(), Ed25519PrivateKey.generate()
    path = tmp_path / "client-2.key"
    changes: tuple[dict[str, Any], ...] = (
        {"secret": other.private_bytes_raw().hex()},
        {"secret": "00"},
        {"secret": None},
        {"version": 2},
        {"more": 1},
        {"protection": {}},
    )
    for change in changes:
        path.write_bytes(encode_identity("client-2", key, None))
        path.chmod(0o600)
        with pytest.raises((KeyMaterialError, PassphraseError)) as caught:
            ClientIdentity.load(altered(path, **change), "client-2")
        assert key.private_bytes_raw().hex() not in str(caught.value)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a file to another user")
@pytest.mark.parametrize("owner", ["file", "link"])
def test_a_key_that_another_user_could_exchange_is_refused(tmp_path: Path, pki: Path, owner: str) -> None:
    keys = enrolled(tmp_path, pki)
    link = tmp_path / "client-2.key"
    link.symlink_to(keys.path)
    assert ClientIdentity.load(link, "client-2"), "a secret store's own link is followed"
    os.chown(keys.path if owner == "file" else link, 1234, -1, follow_symlinks=False)
    with pytest.raises(KeyMaterialError, match=r"another user \(id 1234\), who could exchange the key"):
        ClientIdentity.load(link, "client-2")


def test_a_planted_link_gets_no_key(tmp_path: Path, pki: Path) -> None:
    """Whoever can write to the folder can't have a new key written where they can read it."""
    keys = at_home(tmp_path)
    keys.folder.mkdir()
    stolen = tmp_path / "stolen"
    keys.path.symlink_to(stolen)
    with pytest.raises(KeyMaterialError, match="already exists"):
        keys.new(roster_of(pki))
    keys.path.unlink()
    keys.request.symlink_to(stolen)
    keys.new(roster_of(pki))
    assert not stolen.exists()
    assert not keys.request.is_symlink()


def test_a_world_readable_key_asks_for_nothing(tmp_path: Path, pki: Path) -> None:
    keys = enrolled(tmp_path, pki)
    keys.path.chmod(0o644)
    with pytest.raises(KeyMaterialError, match="chmod 600"):
        keys.renew(roster_of(pki))


# The roster


def test_no_signature_of_one_kind_stands_for_another() -> None:
    domains = [STATEMENT_PREFIX, GREETING_PREFIX, MAGIC, ROSTER_PREFIX, REQUEST_PREFIX]
    assert [a for a in domains for b in domains if a is not b and b.startswith(a)] == []


def test_each_change_makes_a_new_roster_and_every_old_one_is_refused(tmp_path: Path) -> None:
    provision(tmp_path / "pki", 3, [])
    path, memory = tmp_path / "pki/enrolled.json", tmp_path / "state/rosters.jsonl"
    side = Roster(path, memory=memory)
    first = path.read_bytes()
    assert side.read().number == 1
    revoke_client(tmp_path / "pki", "client-1")
    assert side.read().number == 2
    path.write_bytes(first)  # by which client-1 would take part again
    for reader in (side, Roster(path, memory=memory)):  # a new process of this side remembers as well
        with breaks(Reason.ROSTER_ROLLED_BACK, match="roster 1, after roster 2 was seen"):
            reader.read()
    assert Roster(path).read().number == 1, "without the memory it would be taken"


def test_two_rosters_of_one_number_are_refused(tmp_path: Path) -> None:
    provision(tmp_path / "pki", 3, [])
    path = tmp_path / "pki/enrolled.json"
    first = path.read_bytes()
    side = Roster(path, memory=tmp_path / "rosters.jsonl")
    revoke_client(tmp_path / "pki", "client-1")
    side.read()
    path.write_bytes(first)
    revoke_client(tmp_path / "pki", "client-2")
    with breaks(Reason.ROSTER_ROLLED_BACK, match="after roster 2 was seen: another one"):
        side.read()


def test_a_roster_that_somebody_else_signed_is_refused(tmp_path: Path) -> None:
    provision(tmp_path / "pki", 3, [])
    provision(tmp_path / "evil", 3, [])
    path = tmp_path / "pki/enrolled.json"
    signer = roster_of(tmp_path / "pki").signer
    pinned, first_seen = Roster(path, signer), Roster(path, memory=tmp_path / "rosters.jsonl")
    pinned.read(), first_seen.read()
    path.write_bytes((tmp_path / "evil/enrolled.json").read_bytes())
    for side in (pinned, first_seen, Roster(path, signer), Roster(path, memory=tmp_path / "rosters.jsonl")):
        with breaks(Reason.ROSTER_SIGNATURE, match="signed by"):
            side.read()


@pytest.mark.parametrize(
    ("key", "value"), [("number", 7), ("signer", "ab" * 32), ("signature", "ab" * 64), ("clients", {})]
)
def test_an_altered_roster_is_refused(tmp_path: Path, key: str, value: Any) -> None:
    provision(tmp_path / "pki", 3, [])
    with breaks(Reason.ROSTER_SIGNATURE, match="altered after it was signed"):
        Enrolment.load(altered(tmp_path / "pki/enrolled.json", **{key: value}))


def test_a_revocation_can_not_be_taken_back_by_hand(tmp_path: Path) -> None:
    provision(tmp_path / "pki", 3, [])
    revoke_client(tmp_path / "pki", "client-1")
    path = tmp_path / "pki/enrolled.json"
    path.write_text(path.read_text().replace('"revoked": true', '"revoked": false'))
    with breaks(Reason.ROSTER_SIGNATURE):
        Enrolment.load(path)


def test_a_line_of_the_memory_that_a_crash_cut_off_is_dropped(tmp_path: Path) -> None:
    provision(tmp_path / "pki", 3, [])
    path, memory = tmp_path / "pki/enrolled.json", tmp_path / "rosters.jsonl"
    Roster(path, memory=memory).read()
    whole = memory.read_bytes()
    memory.write_bytes(whole + whole[:20])
    Roster(path, memory=memory).read()
    assert memory.read_bytes() == whole
    memory.write_bytes(b"[]\n")
    with pytest.raises(EnrolmentError, match="restore it from a backup"):
        Roster(path, memory=memory).read()


def test_a_roster_is_signed_by_its_own_key_alone(tmp_path: Path) -> None:
    provision(tmp_path / "pki", 3, [])
    (tmp_path / "pki/roster.key").write_bytes(encode_identity("roster", Ed25519PrivateKey.generate(), None))
    with breaks(Reason.ROSTER_SIGNATURE, match=r"use its roster\.key"):
        revoke_client(tmp_path / "pki", "client-1")


OLD_LIST = {
    "version": 1,
    "clients": {
        "client-0": {"public_key": "ab" * 32, "added": "2026-01-31", "revoked": False},
        "client-1": {"public_key": "cd" * 32, "added": "2026-01-31", "revoked": True},
    },
}


def test_a_list_of_before_says_what_to_run_and_is_upgraded(tmp_path: Path) -> None:
    path = tmp_path / "enrolled.json"
    path.write_text(json.dumps(OLD_LIST))
    path.chmod(0o644)
    with breaks(Reason.ROSTER_SIGNATURE, match=r"an earlier version; whoever made it runs: .* --upgrade"):
        Enrolment.load(path)
    made = upgrade(tmp_path, days=100)
    assert Enrolment.load(path) == made
    assert [client.revoked for client in made.clients.values()] == [False, True]
    assert days_left(made) == {"client-0": 100}
    with pytest.raises(EnrolmentError, match="nothing to upgrade"):
        upgrade(tmp_path)


@pytest.mark.parametrize("data", ["{}", "[]", "", '{"version": 1, "clients": 1}', '{"version": 1, "clients": [1]}'])
def test_what_is_no_list_of_before_is_not_upgraded(data: str) -> None:
    with pytest.raises(EnrolmentError, match="nothing to upgrade"):
        parse_unsigned(data.encode(), TODAY)


def test_the_signer_is_a_setting_with_a_form(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="roster_signer = 'ab'"):
        masked_settings(tmp_path, 3, roster_signer="ab")


def test_the_servers_certificate_is_renewed_for_the_same_names(tmp_path: Path) -> None:
    provision(tmp_path / "pki", 1, ["orchestrator.example.org"])
    before = certificate(tmp_path / "pki/server.pem")
    renew_server(tmp_path / "pki")
    after = certificate(tmp_path / "pki/server.pem")
    assert after.public_key() != before.public_key()
    client = ssl.create_default_context(cafile=tmp_path / "pki/ca.pem")
    assert handshake(tmp_path / "pki", client, "orchestrator.example.org") == b"hello"
    (tmp_path / "pki/ca.key").write_bytes((tmp_path / "pki/server.key").read_bytes())
    with pytest.raises(KeyMaterialError, match=r"not the key of ca\.pem"):
        renew_server(tmp_path / "pki")


# In a run


SMALL: dict[str, Any] = {
    "num_features": 4, "num_hidden_units": (3,), "num_samples_per_client": 40, "local_epochs": 1,
}  # fmt: skip


def own_federation(folder: Path, clients: int, days: dict[int, int], **settings: Any) -> Config:
    """Masked settings of tenants that made their own keys; the days that each counts."""
    provision(folder / "pki", 0, [])
    for number in range(clients):
        keys = Keys(folder / "pki/clients", number)
        keys.new(roster_of(folder / "pki"))
        sign(folder / "pki", keys, days.get(number, 365))
    signer = roster_of(folder / "pki").signer
    common: dict[str, Any] = {
        "he_key_length": 512, "allow_insecure_key": True, "num_clients": clients, "log_dir": str(folder),
        "roster_signer": signer, **identity_settings(folder / "pki"),
    }  # fmt: skip
    return Config(**(common | SMALL | settings))


def own_tenants(config: Config) -> dict[str, Tenant]:
    return {
        str(i): Tenant(
            config, i, load_client_data(config, i),
            ClientIdentity.load(config.client_identity.replace("{client_id}", str(i)), f"client-{i}"),
        )
        for i in range(config.num_clients)
    }  # fmt: skip


@pytest.mark.parametrize("audit", [False, True])
def test_a_revoked_an_expired_and_a_renewed_tenant_in_one_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, audit: bool
) -> None:
    """The first two are out from then on, the third goes on past its old end, and the others never stop."""
    caplog.set_level("INFO")
    config = own_federation(
        tmp_path, 6, {4: 3, 5: 3}, num_rounds=4, min_available_clients=3, min_fit_clients=3, audit=audit
    )
    pki, day = tmp_path / "pki", TODAY
    commit = Coordinator.commit

    def then(coordinator: Coordinator, *arguments: Any) -> Any:
        nonlocal day
        result = commit(coordinator, *arguments)
        if coordinator.record.round == 1:
            revoke_client(pki, "client-3")
            keys = Keys(pki / "clients", 5)
            keys.renew(roster_of(pki))
            sign(pki, keys)
        if coordinator.record.round == 2:
            day = TODAY + timedelta(days=5)  # past the end of 4, and past what was the end of 5
        return result

    monkeypatch.setattr(Coordinator, "commit", then)
    monkeypatch.setattr(Enrolment, "today", property(lambda self: self.day or day))
    with contextlib.closing(open_in_memory(config, own_tenants(config))) as run:
        run.coordinator.run()
    assert [record.contributor_ids for record in run.coordinator.records] == [
        ["0", "1", "2", "3", "4", "5"], ["0", "1", "2", "4", "5"], ["0", "1", "2", "5"], ["0", "1", "2", "5"],
    ]  # fmt: skip
    assert "'client-3' is revoked" in caplog.text
    assert "'client-4': its enrolment ended on" in caplog.text
    shown = roster_of(pki).fingerprint
    sides = {record.name for record in caplog.records if shown in record.getMessage()}
    assert sides >= {"orchestrator", "client.0", "client.5"}, "both sides tell the fingerprint"
    assert any("client-5: its enrolment ends in 3 days" in record.getMessage() for record in caplog.records)


def test_a_tenant_with_another_roster_than_the_signed_one_stays_out_and_the_rest_go_on(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """One who slips a tenant a list of their own, with peers that they play, gets nothing of it."""
    config = own_federation(tmp_path, 5, {}, num_rounds=1, min_available_clients=3, min_fit_clients=3)
    provision(tmp_path / "evil", 5, [])
    planted = tmp_path / "victim.json"
    planted.write_bytes((tmp_path / "pki/enrolled.json").read_bytes())
    tenants = own_tenants(config)
    tenants["2"].close()
    victim = config.replace(enrolled_clients=str(planted))
    tenants["2"] = Tenant(
        victim, 2, load_client_data(config, 2), ClientIdentity.load(tmp_path / "pki/clients/client-2.key", "client-2")
    )
    planted.write_bytes((tmp_path / "evil/enrolled.json").read_bytes())
    with contextlib.closing(open_in_memory(config, tenants)) as run:
        run.coordinator.run()
    assert run.coordinator.records[0].contributor_ids == ["0", "1", "3", "4"]
    assert "roster: bad signature: its list of enrolled tenants is not signed by whom it goes by" in caplog.text


ROWS = "bytes,packets,label\n" + "".join(
    f"{i * 7 % 50},{i % 9},{'scan' if i % 4 == 0 else 'benign'}\n" for i in range(80)
)


def test_a_revoked_tenant_is_replaced_under_a_new_number_and_num_clients_stays(tmp_path: Path) -> None:
    """Its number is gone for good, and a larger `num_clients` would be another run, with other settings for all."""
    for name in ("public", *(f"tenant-{i}" for i in range(4))):
        (tmp_path / f"{name}.csv").write_text(ROWS)
    config = masked_settings(
        tmp_path, 3, data_source="csv", data_path=str(tmp_path / "tenant-{client_id}.csv"), num_features=2,
        test_path=str(tmp_path / "public.csv"), csv_label_column="label", num_rounds=1, local_epochs=1,
        min_available_clients=3, min_fit_clients=3, fraction_evaluate=0.0,
    )  # fmt: skip
    members = {str(i): Tenant(config, i, load_client_data(config, i), load_identity(config, i)) for i in range(3)}
    with contextlib.closing(open_in_memory(config, members)) as run:
        run.coordinator.run()
    members.pop("1").close()
    revoke_client(tmp_path / "pki", "client-1")
    add_clients(tmp_path / "pki", 1)
    members["3"] = Tenant(config, 3, load_client_data(config, 3), load_identity(config, 3))
    with contextlib.closing(open_in_memory(config.replace(num_rounds=2), members, resume=run.folder.name)) as again:
        again.coordinator.run()
    assert [record.contributor_ids for record in again.coordinator.records] == [["0", "1", "2"], ["0", "2", "3"]]


@pytest.mark.parametrize(
    ("settings", "most"),
    [
        ({}, 2),
        ({"data_source": "csv", "data_path": "common.csv", "csv_label_column": "label"}, 2),
        (
            {"data_source": "csv", "data_path": "{client_id}.csv", "test_path": "t", "csv_label_column": "x"},
            10**9 - 1,
        ),
        ({"data_source": "package.module"}, 10**9 - 1),
    ],
)
def test_a_tenant_with_rows_of_its_own_may_have_any_number(settings: dict[str, Any], most: int) -> None:
    config = Config(num_clients=3, **settings)
    config.check_client_id(most)
    for number in (most + 1, -1):
        with pytest.raises(ConfigError, match=rf"client_id = {number}: expected 0 to {most}"):
            config.check_client_id(number)


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ("0,3", "for larger numbers give each client files of its own"),
        ("1,1", "each number once"),
        ("01,1", "each number once"),
        ("1,", "such as 0,2"),
        ("-1", "such as 0,2"),
        ("²", "such as 0,2"),
        ("9" * 20, "such as 0,2"),
    ],
)
def test_numbers_of_clients_that_can_not_be_are_refused(given: str, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        _parse_ids(given, Config(num_clients=3))
