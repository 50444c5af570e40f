"""Signed updates, greetings and the enrolled list: what is refused, and with which error."""

import os
import pickle
import secrets
from dataclasses import fields, replace
from datetime import date
from hashlib import sha256
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    KeySerializationEncryption,
    NoEncryption,
    PrivateFormat,
)
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from shared.enrolled_clients import EnrolledClient
from shared.enrolment import Enrolment
from shared.errors import EnrolmentError, Flaw, KeyMaterialError, RoundRefusedError
from shared.identity import (
    GREETING_PREFIX,
    NONCE_BYTES,
    STATEMENT_PREFIX,
    ClientIdentity,
    UpdateStatement,
    channel_binding,
    digest_arrays,
    greeting_bytes,
)
from shared.masking.codec import MAGIC
from shared.private_files import MAX_FILE_BYTES
from tests.breaking import breaks


def digest(text: str) -> str:
    return sha256(text.encode()).hexdigest()


SESSION, NONCE = "20260131-120000", bytes(range(NONCE_BYTES))
STATEMENT = UpdateStatement(
    session=SESSION,
    server_round=3,
    nonce=NONCE,
    key_fingerprint=digest("key"),
    task_sha256=digest("task"),
    payload=b"payload",
)
KEYS = {name: Ed25519PrivateKey.generate() for name in ("client-1", "client-2", "client-3")}
IDENTITIES = {name: ClientIdentity(name, key) for name, key in KEYS.items()}
SIGNER = Ed25519PrivateKey.generate()
ENROLMENT, GOOD_JSON = Enrolment(
    MappingProxyType(
        {
            name: EnrolledClient(identity.public_key_hex, date(2026, 1, 31), date.max, revoked=name == "client-3")
            for name, identity in IDENTITIES.items()
        }
    )
).signed(SIGNER)


def pem(key: Any, encryption: KeySerializationEncryption | None = None) -> bytes:
    data: bytes = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, encryption or NoEncryption())
    return data


def write(path: Path, data: bytes, mode: int = 0o600) -> Path:
    path.write_bytes(data)
    path.chmod(mode)
    return path


# The bytes that are signed


def test_the_encoding_is_pinned() -> None:
    """A changed encoding needs a new version in the prefix: old and new clients would refuse each other otherwise."""
    assert STATEMENT.to_bytes("client-1") == (
        b"cloud-security-orchestrator update statement v1\0"
        + b"\0\0\0\x0f20260131-120000"
        + b"\0\0\0\x08\0\0\0\0\0\0\0\x03"
        + (b"\0\0\0\x20" + NONCE)
        + b"\0\0\0\x08client-1"
        + b"".join(b"\0\0\0\x20" + sha256(what).digest() for what in (b"key", b"task", b"payload"))
    )
    assert greeting_bytes("run", NONCE, "client-1", b"tls") == (
        b"cloud-security-orchestrator greeting v2\0\0\0\0\x03run"
        + (b"\0\0\0\x20" + NONCE)
        + b"\0\0\0\x08client-1"
        + b"\0\0\0\x03tls"
    )
    assert channel_binding(b"server", b"client") == b"".join(
        b"\0\0\0\x20" + sha256(what).digest() for what in (b"server", b"client")
    )
    assert channel_binding(b"server") == b"\0\0\0\x20" + sha256(b"server").digest() + b"\0\0\0\0"


def test_no_domain_is_the_beginning_of_another() -> None:
    """All that the signing key signs begins with one of these."""
    domains = [STATEMENT_PREFIX, GREETING_PREFIX, MAGIC]
    assert [a for a in domains for b in domains if a is not b and b.startswith(a)] == []


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *(("session", value) for value in ("", "../up", "a\nb", "a" * 65, "sïx", 5)),
        *(("server_round", value) for value in (0, -1, 2**63, True, 1.0)),
        *(("nonce", value) for value in (b"", bytes(NONCE_BYTES + 1), "a" * NONCE_BYTES)),
        ("key_fingerprint", digest("key").upper()),
        ("task_sha256", digest("task")[:-1]),
        ("task_sha256", digest("task") + "\n"),
    ],
)
def test_nothing_out_of_its_form_is_signed(name: str, value: Any) -> None:
    with pytest.raises(RoundRefusedError, match=f"statement's {name} is out of its form; expected"):
        replace(STATEMENT, **{name: value})
    if name in ("session", "nonce"):
        with pytest.raises(RoundRefusedError, match=f"greeting's {name} is out of its form; expected"):
            IDENTITIES["client-1"].sign_greeting(**{"session": SESSION, "nonce": NONCE, name: value})


# The digest of a model


def test_the_digest_of_a_model_sees_values_shapes_types_and_order() -> None:
    a, b = np.arange(6, dtype=np.float32).reshape(2, 3), np.zeros(3, dtype=np.float32)
    models: list[list[NDArray[Any]]] = [
        [a, b],
        [b, a],
        [a],
        [a.reshape(3, 2), b],
        [a.astype(np.float64), b],
        [a.ravel(), b],
        [np.nextafter(a, np.float32(1)), b],
        [np.concatenate([a.ravel(), b])],
        [],
    ]
    assert len({digest_arrays(model) for model in models}) == len(models)


def test_the_digest_of_a_model_does_not_depend_on_the_memory_layout() -> None:
    a = np.arange(6, dtype="<f4").reshape(2, 3)
    same: list[NDArray[Any]] = [a.copy(), np.asfortranarray(a), a.astype(">f4"), np.repeat(a, 2, axis=1)[:, ::2]]
    assert {digest_arrays([array]) for array in same} == {digest_arrays([a])}


# The identity's file


def test_an_identity_signs_and_the_enrolment_accepts(tmp_path: Path) -> None:
    identity = ClientIdentity.load(write(tmp_path / "client-1.key", pem(KEYS["client-1"])), "client-1")
    assert identity.public_key_hex == IDENTITIES["client-1"].public_key_hex
    update, greeting = identity.sign(STATEMENT), identity.sign_greeting(SESSION, NONCE)
    assert len(update) == len(greeting) == 64
    ENROLMENT.verify("client-1", STATEMENT, update)
    ENROLMENT.verify_greeting("client-1", SESSION, NONCE, greeting)


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o620, 0o610, 0o602, 0o601, 0o644, 0o777])
def test_an_identity_open_to_others_is_refused_with_the_command_to_run(tmp_path: Path, mode: int) -> None:
    path = write(tmp_path / "client-1.key", pem(KEYS["client-1"]), mode)
    with pytest.raises(KeyMaterialError, match=rf"mode {mode:04o} .* run: chmod 600 {path}"):
        ClientIdentity.load(path, "client-1")


def test_a_link_is_judged_by_the_file_it_leads_to(tmp_path: Path) -> None:
    path = write(tmp_path / "secret", pem(KEYS["client-1"]))
    (tmp_path / "link").symlink_to(path)
    assert ClientIdentity.load(tmp_path / "link", "client-1").client_id == "client-1"
    path.chmod(0o644)
    with pytest.raises(KeyMaterialError, match="chmod 600"):
        ClientIdentity.load(tmp_path / "link", "client-1")


def test_a_missing_file_a_folder_and_a_pipe_are_refused(tmp_path: Path) -> None:
    with pytest.raises(KeyMaterialError, match="no such file; make it with client/enrol"):
        ClientIdentity.load(tmp_path / "none", "client-1")
    with pytest.raises(KeyMaterialError, match="not a regular file"):
        ClientIdentity.load(tmp_path, "client-1")
    os.mkfifo(tmp_path / "pipe", 0o600)
    with pytest.raises(KeyMaterialError, match="not a regular file"):
        ClientIdentity.load(tmp_path / "pipe", "client-1")
    with pytest.raises(KeyMaterialError, match="larger than"):
        ClientIdentity.load(write(tmp_path / "big", bytes(MAX_FILE_BYTES + 1)), "client-1")


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"not a key",
        pem(KEYS["client-1"])[:-40],
        pem(ec.generate_private_key(ec.SECP256R1())),
        pem(KEYS["client-1"], BestAvailableEncryption(b"passphrase")),
    ],
    ids=["empty", "text", "truncated", "P-256", "encrypted"],
)
def test_what_is_no_ed25519_key_is_refused(tmp_path: Path, data: bytes) -> None:
    path = write(tmp_path / "client-1.key", data)
    with pytest.raises(KeyMaterialError, match="nor an unencrypted Ed25519 private key") as caught:
        ClientIdentity.load(path, "client-1")
    assert caught.value.__context__ is None  # a parser's exception may quote what it read


def test_an_identity_shows_and_pickles_no_key() -> None:
    secret = KEYS["client-1"].private_bytes_raw()
    assert repr(IDENTITIES["client-1"]) == "ClientIdentity(client_id='client-1')"
    assert secret.hex() not in str(vars(IDENTITIES["client-1"]))
    with pytest.raises(TypeError):
        pickle.dumps(IDENTITIES["client-1"])


# The server's check


DIFFERENCES: list[dict[str, Any]] = [
    {"session": "20260101-000000"},
    {"server_round": 2},
    {"server_round": 4},
    {"nonce": secrets.token_bytes(NONCE_BYTES)},
    {"key_fingerprint": digest("another key")},
    {"task_sha256": digest("another task")},
    {"key_fingerprint": STATEMENT.task_sha256, "task_sha256": STATEMENT.key_fingerprint},
    {"payload": b"another payload"},
]


@pytest.mark.parametrize("change", DIFFERENCES)
def test_a_signature_for_anything_else_is_refused(change: dict[str, Any]) -> None:
    """Both ways round, and where the signature belongs it is accepted: nothing else is wrong with it."""
    other = replace(STATEMENT, **change)
    for signed, expected in ((other, STATEMENT), (STATEMENT, other)):
        signature = IDENTITIES["client-1"].sign(signed)
        ENROLMENT.verify("client-1", signed, signature)
        with breaks(Flaw.SIGNATURE, match=r"key of client 'client-1' for this very .* another round, key"):
            ENROLMENT.verify("client-1", expected, signature)


def test_each_field_of_a_statement_is_among_the_differences() -> None:
    assert {name for change in DIFFERENCES for name in change} == {field.name for field in fields(UpdateStatement)}


@pytest.mark.parametrize(
    ("session", "nonce"), [("20260101-000000", NONCE), (SESSION, bytes(NONCE_BYTES))], ids=["session", "nonce"]
)
def test_a_greeting_of_another_session_or_nonce_is_refused(session: str, nonce: bytes) -> None:
    signature = IDENTITIES["client-1"].sign_greeting(SESSION, NONCE)
    with breaks(Flaw.SIGNATURE, match="key of client 'client-1' for this greeting; check"):
        ENROLMENT.verify_greeting("client-1", session, nonce, signature)


def refused(client_id: str, update: object, greeting: object, flaw: Flaw, words: str) -> None:
    with breaks(flaw, match=words):
        ENROLMENT.verify(client_id, STATEMENT, update)
    with breaks(flaw, match=words):
        ENROLMENT.verify_greeting(client_id, SESSION, NONCE, greeting)


def test_who_may_not_take_part_is_refused() -> None:
    stranger, revoked = ClientIdentity("client-9", KEYS["client-1"]), IDENTITIES["client-3"]
    refused("client-9", stranger.sign(STATEMENT), stranger.sign_greeting(SESSION, NONCE), Flaw.NOT_ENROLLED, "client-9")
    refused("client-3", revoked.sign(STATEMENT), revoked.sign_greeting(SESSION, NONCE), Flaw.REVOKED, "client-3")


@pytest.mark.parametrize(
    "other",
    [
        IDENTITIES["client-2"],
        ClientIdentity("client-2", KEYS["client-1"]),
        ClientIdentity("client-1", KEYS["client-2"]),
    ],
    ids=["another client", "another name", "another key"],
)
def test_another_client_stands_for_nothing_of_this_one(other: ClientIdentity) -> None:
    refused("client-1", other.sign(STATEMENT), other.sign_greeting(SESSION, NONCE), Flaw.SIGNATURE, "client-1")


def test_a_greeting_and_a_statement_never_stand_for_one_another() -> None:
    """Session, nonce and client are the same here: the prefix alone tells them apart. Nor does either go without."""
    identity, key = IDENTITIES["client-1"], KEYS["client-1"]
    update, greeting = STATEMENT.to_bytes("client-1"), greeting_bytes(SESSION, NONCE, "client-1")
    refused("client-1", identity.sign_greeting(SESSION, NONCE), identity.sign(STATEMENT), Flaw.SIGNATURE, "client-1")
    bare = key.sign(update.removeprefix(STATEMENT_PREFIX)), key.sign(greeting.removeprefix(GREETING_PREFIX))
    refused("client-1", *bare, Flaw.SIGNATURE, "client-1")


GOOD = IDENTITIES["client-1"].sign(STATEMENT)


def test_every_flipped_bit_of_a_signature_is_refused() -> None:
    for bit in range(8 * len(GOOD)):
        bad = bytearray(GOOD)
        bad[bit // 8] ^= 1 << bit % 8
        with breaks(Flaw.SIGNATURE):
            ENROLMENT.verify("client-1", STATEMENT, bytes(bad))


def test_what_is_no_signature_is_refused() -> None:
    """The network delivers any scalar, or nothing."""
    for signature in (b"", GOOD[:-1], GOOD + b"\0", bytes(64), bytes(65), GOOD * 1000):
        refused("client-1", signature, signature, Flaw.SIGNATURE, "not signed by the enrolled key of client")
    scalars: list[object] = [None, True, 7, 1.5, GOOD.hex(), bytearray(GOOD), [GOOD]]
    for value in scalars:
        refused("client-1", value, value, Flaw.SIGNATURE, "client 'client-1' sent no signature; set client_identity")


# The enrolled list


def test_the_list_survives_its_file(tmp_path: Path) -> None:
    path = write(tmp_path / "enrolled.json", GOOD_JSON)
    assert Enrolment.load(path) == ENROLMENT


def test_a_list_is_never_changed_in_place() -> None:
    longer = ENROLMENT.with_client("client-4", digest("a key"), date(2026, 2, 1), date.max)
    assert set(longer.clients) - set(ENROLMENT.clients) == {"client-4"}
    assert longer.without("client-4").clients["client-4"].revoked
    assert not longer.clients["client-4"].revoked


def test_an_id_is_given_out_once() -> None:
    for taken in ("client-1", "client-3"):  # client-3 is revoked
        with pytest.raises(EnrolmentError, match="given out once"):
            ENROLMENT.with_client(taken, digest("a key"), date(2026, 2, 1), date.max)


GOOD_LIST = GOOD_JSON.decode()
FIRST_KEY = ENROLMENT.clients["client-1"].public_key


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "not JSON"),
        (GOOD_LIST[:-20], "not JSON"),
        ("[" * 100_000, "nested too deeply"),
        ("[]", "expected version 2"),
        ("{}", "expected version 2"),
        ('{"version": 2}', "expected the keys"),
        (GOOD_LIST.replace('"version": 2', '"version": 3'), "expected version 2"),
        (GOOD_LIST.replace('"number": 1', '"number": 0'), "whole number from 1"),
        (GOOD_LIST.replace('"signer": "', '"signer": "x'), "expected 'signer'"),
        (GOOD_LIST.replace('"signature": "', '"signature": "0'), "expected 'signature'"),
        (GOOD_LIST.replace('"client-2"', '"client-1"'), "given twice"),
        (GOOD_LIST.replace('"client-1"', '"../client"'), "client id"),
        (GOOD_LIST.replace('"revoked": true', '"revoked": 0'), "true or false"),
        (GOOD_LIST.replace('"revoked": true', '"revoke": true'), "expected the keys"),
        (GOOD_LIST.replace("2026-01-31", "2026-02-31"), "day is out of range"),
        (GOOD_LIST.replace("2026-01-31", "20260131"), "date such as"),
        (GOOD_LIST.replace(FIRST_KEY, FIRST_KEY[:-2]), "64 lower-case hex digits"),
        (GOOD_LIST.replace(FIRST_KEY, ENROLMENT.clients["client-2"].public_key), "the same public key"),
    ],
)
def test_a_malformed_list_is_refused(tmp_path: Path, text: str, words: str) -> None:
    path = write(tmp_path / "enrolled.json", text.encode())
    with pytest.raises(EnrolmentError, match=words) as caught:
        Enrolment.load(path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("mode", [0o664, 0o646, 0o666, 0o620, 0o602, 0o777])
def test_a_list_that_others_may_write_is_refused(tmp_path: Path, mode: int) -> None:
    path = write(tmp_path / "enrolled.json", GOOD_LIST.encode(), mode)
    with pytest.raises(EnrolmentError, match=rf"mode {mode:04o} .* run: chmod go-w {path}"):
        Enrolment.load(path)


@pytest.mark.parametrize("mode", [0o600, 0o644, 0o444, 0o755])
def test_a_list_that_others_may_read_is_taken(tmp_path: Path, mode: int) -> None:
    assert Enrolment.load(write(tmp_path / "enrolled.json", GOOD_LIST.encode(), mode)).clients


def test_a_list_of_another_user_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write(tmp_path / "enrolled.json", GOOD_LIST.encode(), 0o644)
    owner = path.stat().st_uid
    if owner == 0:  # root's files are taken by everyone
        os.chown(path, 1234, -1)
    else:
        monkeypatch.setattr(os, "geteuid", lambda: owner + 1)
    with pytest.raises(EnrolmentError, match=r"belongs to another user \(id \d+\).* run: chown"):
        Enrolment.load(path)
    os.chown(path, os.geteuid(), -1) if owner == 0 else monkeypatch.undo()
    assert Enrolment.load(path).clients


def test_a_missing_list_is_refused(tmp_path: Path) -> None:
    with pytest.raises(EnrolmentError, match="get it from whoever runs the federation"):
        Enrolment.load(tmp_path / "enrolled.json")


@given(st.binary(max_size=200))
def test_hostile_lists_raise_only_the_typed_error(tmp_path_factory: pytest.TempPathFactory, data: bytes) -> None:
    path = write(tmp_path_factory.getbasetemp() / "fuzz.json", data)
    with pytest.raises(EnrolmentError):
        Enrolment.load(path)
