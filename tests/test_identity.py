"""Signed statements: what is refused, and with which error."""

import os
import pickle
import secrets
from collections.abc import Callable
from dataclasses import replace
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
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from shared.enrolment import EnrolledClient, Enrolment
from shared.errors import (
    BadSignatureError,
    EnrolmentError,
    KeyFileError,
    KeyMaterialError,
    MalformedStatementError,
    NotEnrolledError,
    RevokedClientError,
    StaleRoundError,
    UpdateRejectedError,
    WrongClientError,
    WrongKeyError,
    WrongNonceError,
    WrongPayloadError,
    WrongRunError,
    WrongTaskError,
)
from shared.identity import (
    GREETING_PREFIX,
    NONCE_BYTES,
    STATEMENT_PREFIX,
    ClientIdentity,
    UpdateStatement,
    digest_arrays,
    greeting_bytes,
)
from shared.masking.codec import MAGIC
from shared.private_files import MAX_FILE_BYTES


def digest(text: str) -> str:
    return sha256(text.encode()).hexdigest()


STATEMENT = UpdateStatement(
    run_id="20260131-120000",
    server_round=3,
    nonce=bytes(range(NONCE_BYTES)),
    client_id="client-1",
    key_fingerprint=digest("key"),
    task_sha256=digest("model"),
    payload_sha256=digest("payload"),
)
KEYS = {name: Ed25519PrivateKey.generate() for name in ("client-1", "client-2", "client-3")}
IDENTITIES = {name: ClientIdentity(name, key) for name, key in KEYS.items()}
ENROLMENT = Enrolment(
    MappingProxyType(
        {
            name: EnrolledClient(identity.public_key_hex, date(2026, 1, 31), revoked=name == "client-3")
            for name, identity in IDENTITIES.items()
        }
    )
)


def pem(key: Any, encryption: KeySerializationEncryption | None = None) -> bytes:
    data: bytes = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, encryption or NoEncryption())
    return data


def write(path: Path, data: bytes, mode: int = 0o600) -> Path:
    path.write_bytes(data)
    path.chmod(mode)
    return path


# The statement


def test_the_encoding_is_pinned() -> None:
    """A changed encoding needs a new version in the prefix: old and new clients would refuse each other otherwise."""
    assert (
        sha256(STATEMENT.to_bytes()).hexdigest() == "be9b44bbe7bf5954b609c6d5a4d0c0da9c2f9f0df6fa8ab9f928983754bfe64a"
    )


@settings(deadline=None, max_examples=30)
@given(
    st.builds(
        UpdateStatement,
        run_id=st.from_regex(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}", fullmatch=True),
        server_round=st.integers(1, 2**63 - 1),
        nonce=st.binary(min_size=NONCE_BYTES, max_size=NONCE_BYTES),
        client_id=st.from_regex(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}", fullmatch=True),
        key_fingerprint=st.from_regex("[0-9a-f]{64}", fullmatch=True),
        task_sha256=st.from_regex("[0-9a-f]{64}", fullmatch=True),
        payload_sha256=st.from_regex("[0-9a-f]{64}", fullmatch=True),
    )
)
def test_a_statement_survives_its_encoding(statement: UpdateStatement) -> None:
    assert UpdateStatement.from_bytes(statement.to_bytes()) == statement


@settings(deadline=None)
@given(st.data())
def test_whatever_is_accepted_is_canonical(data: st.DataObject) -> None:
    """Hostile bytes raise the one typed error, or they are exactly what `to_bytes` would write."""
    good = STATEMENT.to_bytes()
    at = data.draw(st.integers(0, len(good)))
    end = data.draw(st.integers(at, len(good)))
    hostile = good[:at] + data.draw(st.binary(max_size=40)) + good[end:]
    try:
        statement = UpdateStatement.from_bytes(hostile)
    except MalformedStatementError:
        return
    assert statement.to_bytes() == hostile


@settings(deadline=None)
@given(st.binary(max_size=600))
def test_bytes_after_the_prefix_raise_only_the_typed_error(data: bytes) -> None:
    with pytest.raises(MalformedStatementError):
        UpdateStatement.from_bytes(STATEMENT_PREFIX + data)


def test_every_truncation_and_every_extension_is_refused() -> None:
    good = STATEMENT.to_bytes()
    for length in range(len(good)):
        with pytest.raises(MalformedStatementError):
            UpdateStatement.from_bytes(good[:length])
    for tail in (b"\0", b"\0\0\0\0", b"\0\0\0\1a", bytes(1000)):
        with pytest.raises(MalformedStatementError):
            UpdateStatement.from_bytes(good + tail)


@pytest.mark.parametrize("scalar", [None, 1, 1.5, True, "text", bytearray(STATEMENT.to_bytes())])
def test_what_is_not_bytes_is_refused(scalar: Any) -> None:
    with pytest.raises(MalformedStatementError):
        UpdateStatement.from_bytes(scalar)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("run_id", ""),
        ("run_id", "../up"),
        ("run_id", "a\nb"),
        ("run_id", "a" * 65),
        ("client_id", "client-1\n"),
        ("client_id", "clïent"),
        ("client_id", "-x"),
        ("server_round", 0),
        ("server_round", -1),
        ("server_round", 2**63),
        ("server_round", True),
        ("server_round", 1.0),
        ("nonce", b""),
        ("nonce", bytes(NONCE_BYTES + 1)),
        ("nonce", "a" * NONCE_BYTES),
        ("key_fingerprint", digest("key").upper()),
        ("task_sha256", digest("model")[:-1]),
        ("payload_sha256", digest("payload") + "\n"),
    ],
)
def test_a_field_out_of_its_form_is_refused(name: str, value: Any) -> None:
    with pytest.raises(MalformedStatementError, match=f"{name} is out of its form; expected"):
        replace(STATEMENT, **{name: value})


def test_no_two_statements_share_their_bytes_by_moving_a_boundary() -> None:
    one = replace(STATEMENT, run_id="ab", client_id="c")
    other = replace(STATEMENT, run_id="a", client_id="bc")
    assert one.to_bytes() != other.to_bytes()


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
    path = write(tmp_path / "client-1.key", pem(KEYS["client-1"]))
    identity = ClientIdentity.load(path, "client-1")
    signature = identity.sign(STATEMENT)
    assert len(signature) == 64
    assert identity.public_key_hex == IDENTITIES["client-1"].public_key_hex
    ENROLMENT.verify(STATEMENT.to_bytes(), signature, STATEMENT)


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o620, 0o610, 0o602, 0o601, 0o644, 0o777])
def test_an_identity_open_to_others_is_refused_with_the_command_to_run(tmp_path: Path, mode: int) -> None:
    path = write(tmp_path / "client-1.key", pem(KEYS["client-1"]), mode)
    with pytest.raises(KeyFileError, match=rf"mode {mode:04o} .* run: chmod 600 {path}"):
        ClientIdentity.load(path, "client-1")


def test_a_link_is_judged_by_the_file_it_leads_to(tmp_path: Path) -> None:
    path = write(tmp_path / "secret", pem(KEYS["client-1"]))
    (tmp_path / "link").symlink_to(path)
    assert ClientIdentity.load(tmp_path / "link", "client-1").client_id == "client-1"
    path.chmod(0o644)
    with pytest.raises(KeyFileError, match="chmod 600"):
        ClientIdentity.load(tmp_path / "link", "client-1")


def test_a_missing_file_a_folder_and_a_pipe_are_refused(tmp_path: Path) -> None:
    with pytest.raises(KeyFileError, match="no such file; ask the operator"):
        ClientIdentity.load(tmp_path / "none", "client-1")
    with pytest.raises(KeyFileError, match="not a regular file"):
        ClientIdentity.load(tmp_path, "client-1")
    os.mkfifo(tmp_path / "pipe", 0o600)
    with pytest.raises(KeyFileError, match="not a regular file"):
        ClientIdentity.load(tmp_path / "pipe", "client-1")
    with pytest.raises(KeyFileError, match="larger than"):
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
    with pytest.raises(KeyMaterialError, match="expected an unencrypted Ed25519 private key") as caught:
        ClientIdentity.load(path, "client-1")
    assert caught.value.__context__ is None  # a parser's exception may quote what it read


def test_an_identity_shows_and_pickles_no_key() -> None:
    secret = KEYS["client-1"].private_bytes_raw()
    assert repr(IDENTITIES["client-1"]) == "ClientIdentity(client_id='client-1')"
    assert secret.hex() not in str(vars(IDENTITIES["client-1"]))
    with pytest.raises(TypeError):
        pickle.dumps(IDENTITIES["client-1"])


def test_an_identity_signs_for_itself_alone() -> None:
    with pytest.raises(WrongClientError):
        IDENTITIES["client-2"].sign(STATEMENT)


# The server's check


DIFFERENCES: list[tuple[type[UpdateRejectedError], dict[str, Any]]] = [
    (WrongRunError, {"run_id": "20260101-000000"}),
    (StaleRoundError, {"server_round": 2}),
    (StaleRoundError, {"server_round": 4}),
    (WrongNonceError, {"nonce": secrets.token_bytes(NONCE_BYTES)}),
    (WrongKeyError, {"key_fingerprint": digest("another key")}),
    (WrongTaskError, {"task_sha256": digest("another model")}),
    (WrongPayloadError, {"payload_sha256": digest("another payload")}),
    (WrongClientError, {"client_id": "client-2"}),
]


@pytest.mark.parametrize(("error", "change"), DIFFERENCES)
def test_a_validly_signed_difference_names_its_field(error: type[UpdateRejectedError], change: dict[str, Any]) -> None:
    sent = replace(STATEMENT, **change)
    signature = IDENTITIES[sent.client_id].sign(sent)
    with pytest.raises(error, match=rf"client '{sent.client_id}' signed {next(iter(change))} .* expected") as caught:
        ENROLMENT.verify(sent.to_bytes(), signature, STATEMENT)
    assert type(caught.value) is error


@pytest.mark.parametrize(("error", "change"), DIFFERENCES)
def test_a_statement_changed_after_signing_is_a_bad_signature(
    error: type[UpdateRejectedError], change: dict[str, Any]
) -> None:
    """Also when the change makes it the very statement that the server expects."""
    old = replace(STATEMENT, **change)
    signature = IDENTITIES[old.client_id].sign(old)
    with pytest.raises(BadSignatureError):
        ENROLMENT.verify(STATEMENT.to_bytes(), signature, STATEMENT)


def test_who_may_not_take_part_is_refused() -> None:
    stranger = replace(STATEMENT, client_id="client-9")
    with pytest.raises(NotEnrolledError, match="client-9"):
        ENROLMENT.verify(stranger.to_bytes(), KEYS["client-1"].sign(stranger.to_bytes()), stranger)
    revoked = replace(STATEMENT, client_id="client-3")
    with pytest.raises(RevokedClientError, match="client-3"):
        ENROLMENT.verify(revoked.to_bytes(), IDENTITIES["client-3"].sign(revoked), revoked)


def test_another_clients_signature_is_refused() -> None:
    with pytest.raises(BadSignatureError):
        ENROLMENT.verify(STATEMENT.to_bytes(), KEYS["client-2"].sign(STATEMENT.to_bytes()), STATEMENT)


def test_a_signature_without_the_prefix_does_not_count() -> None:
    """Domain separation: what the key signs elsewhere can't be passed off as a statement."""
    bare = KEYS["client-1"].sign(STATEMENT.to_bytes().removeprefix(STATEMENT_PREFIX))
    with pytest.raises(BadSignatureError):
        ENROLMENT.verify(STATEMENT.to_bytes(), bare, STATEMENT)


def test_every_flipped_bit_of_a_signature_is_refused() -> None:
    good = IDENTITIES["client-1"].sign(STATEMENT)
    for bit in range(8 * len(good)):
        bad = bytearray(good)
        bad[bit // 8] ^= 1 << bit % 8
        with pytest.raises(BadSignatureError):
            ENROLMENT.verify(STATEMENT.to_bytes(), bytes(bad), STATEMENT)


@pytest.mark.parametrize(
    "change", [lambda s: b"", lambda s: s[:-1], lambda s: s + b"\0", lambda s: None, lambda s: 1.0]
)
def test_what_is_no_signature_is_refused(change: Callable[[bytes], Any]) -> None:
    with pytest.raises(BadSignatureError):
        ENROLMENT.verify(STATEMENT.to_bytes(), change(IDENTITIES["client-1"].sign(STATEMENT)), STATEMENT)


# The greeting


RUN, NONCE = STATEMENT.run_id, STATEMENT.nonce


def test_a_greeting_is_accepted() -> None:
    signature = IDENTITIES["client-1"].sign_greeting(RUN, NONCE)
    assert len(signature) == 64
    ENROLMENT.verify_greeting("client-1", RUN, NONCE, signature)


def test_the_greetings_encoding_is_pinned() -> None:
    assert greeting_bytes("run", bytes(NONCE_BYTES), "client-1") == (
        b"cloud-security-orchestrator greeting v1\0"
        + b"\0\0\0\x03run"
        + b"\0\0\0\x20"
        + bytes(32)
        + b"\0\0\0\x08client-1"
    )


@pytest.mark.parametrize(
    ("client_id", "run_id", "nonce"),
    [
        ("client-2", RUN, NONCE),
        ("client-1", "20260101-000000", NONCE),
        ("client-1", RUN, bytes(NONCE_BYTES)),
    ],
)
def test_a_greeting_of_another_client_run_or_nonce_is_refused(client_id: str, run_id: str, nonce: bytes) -> None:
    signature = IDENTITIES["client-1"].sign_greeting(RUN, NONCE)
    with pytest.raises(BadSignatureError, match=client_id):
        ENROLMENT.verify_greeting(client_id, run_id, nonce, signature)


def test_a_greeting_of_who_may_not_take_part_is_refused() -> None:
    with pytest.raises(NotEnrolledError, match="client-9"):
        ENROLMENT.verify_greeting("client-9", RUN, NONCE, IDENTITIES["client-1"].sign_greeting(RUN, NONCE))
    with pytest.raises(RevokedClientError, match="client-3"):
        ENROLMENT.verify_greeting("client-3", RUN, NONCE, IDENTITIES["client-3"].sign_greeting(RUN, NONCE))


@pytest.mark.parametrize("signature", [b"", bytes(64), bytes(65), None, 1.0, True, "text", [1]])
def test_what_is_no_signature_is_no_greeting(signature: object) -> None:
    with pytest.raises(BadSignatureError):
        ENROLMENT.verify_greeting("client-1", RUN, NONCE, signature)


def test_a_greeting_and_a_statement_never_stand_for_one_another() -> None:
    """Run, nonce and client are the same here: the prefix alone tells them apart."""
    identity = IDENTITIES["client-1"]
    with pytest.raises(BadSignatureError):
        ENROLMENT.verify(STATEMENT.to_bytes(), identity.sign_greeting(RUN, NONCE), STATEMENT)
    with pytest.raises(BadSignatureError):
        ENROLMENT.verify_greeting("client-1", RUN, NONCE, identity.sign(STATEMENT))
    bare = identity.signing_key.sign(greeting_bytes(RUN, NONCE, "client-1").removeprefix(GREETING_PREFIX))
    with pytest.raises(BadSignatureError):
        ENROLMENT.verify_greeting("client-1", RUN, NONCE, bare)


def test_no_domain_is_the_beginning_of_another() -> None:
    """All that the signing key signs begins with one of these."""
    domains = [STATEMENT_PREFIX, GREETING_PREFIX, MAGIC]
    assert [a for a in domains for b in domains if a is not b and b.startswith(a)] == []


@pytest.mark.parametrize(
    ("run_id", "nonce", "words"),
    [
        ("", NONCE, "greeting's run_id is out of its form"),
        ("a\nb", NONCE, "greeting's run_id"),
        (5, NONCE, "greeting's run_id"),
        (RUN, b"", "greeting's nonce is out of its form; expected 32 bytes"),
        (RUN, NONCE + b"\0", "greeting's nonce"),
        (RUN, "text", "greeting's nonce"),
    ],
)
def test_a_client_signs_no_greeting_out_of_its_form(run_id: Any, nonce: Any, words: str) -> None:
    with pytest.raises(MalformedStatementError, match=words):
        IDENTITIES["client-1"].sign_greeting(run_id, nonce)


# The enrolled list


def test_the_list_survives_its_file(tmp_path: Path) -> None:
    path = write(tmp_path / "enrolled.json", ENROLMENT.to_json())
    assert Enrolment.load(path) == ENROLMENT


def test_a_list_is_never_changed_in_place() -> None:
    longer = ENROLMENT.with_client("client-4", digest("a key"), date(2026, 2, 1))
    assert set(longer.clients) - set(ENROLMENT.clients) == {"client-4"}
    assert longer.without("client-4").clients["client-4"].revoked
    assert not longer.clients["client-4"].revoked


def test_an_id_is_given_out_once() -> None:
    for taken in ("client-1", "client-3"):  # client-3 is revoked
        with pytest.raises(EnrolmentError, match="given out once"):
            ENROLMENT.with_client(taken, digest("a key"), date(2026, 2, 1))


GOOD_LIST = ENROLMENT.to_json().decode()
FIRST_KEY = ENROLMENT.clients["client-1"].public_key


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "not JSON"),
        (GOOD_LIST[:-20], "not JSON"),
        ("[" * 100_000, "nested too deeply"),
        ("[]", "expected the keys"),
        ("{}", "expected the keys"),
        (GOOD_LIST.replace('"version": 1', '"version": 2'), "expected version 1"),
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
    with pytest.raises(EnrolmentError, match=r"provision\.py --clients"):
        Enrolment.load(tmp_path / "enrolled.json")


@settings(deadline=None)
@given(st.binary(max_size=200))
def test_hostile_lists_raise_only_the_typed_error(tmp_path_factory: pytest.TempPathFactory, data: bytes) -> None:
    path = write(tmp_path_factory.getbasetemp() / "fuzz.json", data)
    with pytest.raises(EnrolmentError):
        Enrolment.load(path)
