"""The Paillier key file: what is written, what is refused, and that nothing secret is ever shown."""

import copy
import json
import os
import pickle
import stat
import subprocess
import sys
from collections.abc import Callable
from datetime import UTC, datetime
from functools import cache
from math import gcd
from pathlib import Path
from typing import Any

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from phe.paillier import PaillierPrivateKey, PaillierPublicKey, generate_paillier_keypair
from phe.util import getprimeover, is_prime

from orchestrator.keys import new_key, rotate_key
from shared import key_files
from shared.errors import KeyFileError, KeyMaterialError, PassphraseError
from shared.key_files import (
    PASSPHRASE_VARIABLE,
    PaillierKey,
    fingerprint,
    load_key,
    passphrase_from_environment,
    read_header,
    replace_key,
    save_key,
)

REPOSITORY = Path(__file__).parents[1]
BITS = 512  # small: these tests are about the file
CREATED = datetime(2026, 1, 31, 12, 0, 0, tzinfo=UTC)
PASSPHRASE = "correct horse battery staple"


def blum_keypair(key_length: int, kind: str) -> tuple[PaillierPublicKey, PaillierPrivateKey]:
    while True:
        public, private = generate_paillier_keypair(n_length=key_length)
        if private.p % 4 == private.q % 4 == 3 and gcd(private.p - 1, private.q - 1) == 2:
            return public, private


@cache
def key() -> PaillierKey:
    return PaillierKey(blum_keypair(BITS, "blum")[1], "blum", CREATED)


def secret_texts(key: PaillierKey) -> list[str]:
    return [text for number in (key.private.p, key.private.q) for text in (str(number), f"{number:x}", f"{number:X}")]


def edit(path: Path, change: Callable[[dict[str, Any]], None]) -> None:
    raw = json.loads(path.read_text())
    change(raw)
    path.write_text(json.dumps(raw))


def write_numbers(path: Path, p: int, q: int, n: int | None = None, **fields: Any) -> None:
    """A key file of these numbers in which everything else is as it should be."""
    n = p * q if n is None else n
    raw = {
        "format": "paillier-private-key",
        "version": 1,
        "kind": "blum",
        "key_length": n.bit_length(),
        "fingerprint": fingerprint(n),
        "created": "2026-01-31T12:00:00Z",
        "n": f"{n:x}",
        "protection": None,
        "secret": {"p": f"{p:x}", "q": f"{q:x}"},
    }
    path.write_text(json.dumps(raw | fields))
    path.chmod(0o600)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "paillier.json"


@pytest.fixture(scope="module")
def encrypted(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """The bytes of an encrypted key file, made once: scrypt is slow on purpose."""
    path = tmp_path_factory.mktemp("encrypted") / "paillier.json"
    save_key(path, key(), PASSPHRASE)
    return path.read_bytes()


# Saving and loading


def test_a_key_survives_its_file_and_still_decrypts(path: Path) -> None:
    save_key(path, key(), None)
    loaded = load_key(path, None)
    assert (loaded.private.p, loaded.private.q, loaded.kind, loaded.created) == (
        key().private.p,
        key().private.q,
        "blum",
        CREATED,
    )
    assert loaded.private.decrypt(key().public.encrypt(42)) == 42


def test_a_key_survives_its_encrypted_file(path: Path, encrypted: bytes) -> None:
    path.write_bytes(encrypted)
    path.chmod(0o600)
    assert load_key(path, PASSPHRASE) == key()
    assert not any(secret in encrypted.decode() for secret in secret_texts(key()))


def test_sub_primes_survive_and_are_checked(path: Path) -> None:
    def prime_with_sub_prime() -> tuple[int, int]:
        while True:
            sub_prime = getprimeover(100)
            start = (3 << 254) // sub_prime // 4 * 4 + 2  # p is close to 3/4 of 2**256, and 3 mod 4
            for factor in range(start, start + 2000, 4):
                if is_prime(p := factor * sub_prime + 1):
                    return p, sub_prime

    (p, sub_p), (q, sub_q) = sorted((prime_with_sub_prime(), prime_with_sub_prime()))
    private = PaillierPrivateKey(PaillierPublicKey(p * q), p, q)
    save_key(path, PaillierKey(private, "subgroup", CREATED, (sub_p, sub_q)), None)
    assert load_key(path, None).sub_primes == (sub_p, sub_q)
    for sub_primes, words in (((sub_q, sub_p), "does not divide"), ((sub_p * 3, sub_q), "composite")):
        with pytest.raises(KeyMaterialError, match=words):
            replace_key(path, PaillierKey(private, "subgroup", CREATED, sub_primes), None)


@pytest.mark.parametrize("umask", [0o000, 0o022, 0o077])
def test_the_file_has_mode_0600_at_every_instant(path: Path, umask: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also under a careless umask, and already when it is opened, before a byte of the key is in it."""
    modes = []
    real_open = os.open

    def spying_open(name: Any, flags: int, mode: int = 0o777, **rest: Any) -> int:
        descriptor = real_open(name, flags, mode, **rest)
        if flags & os.O_CREAT:
            modes.append(stat.S_IMODE(os.fstat(descriptor).st_mode))
            assert flags & os.O_EXCL
        return descriptor

    monkeypatch.setattr(os, "open", spying_open)
    before = os.umask(umask)
    try:
        save_key(path, key(), None)
    finally:
        os.umask(before)
    assert modes == [0o600]
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert [file.name for file in path.parent.iterdir()] == [path.name]


def test_an_existing_file_is_never_overwritten(path: Path) -> None:
    path.write_text("precious")
    with pytest.raises(KeyFileError, match="already exists"):
        save_key(path, key(), None)
    assert path.read_text() == "precious"
    assert list(path.parent.iterdir()) == [path]


def test_a_failed_write_leaves_nothing_behind(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_space(_descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", no_space)
    with pytest.raises(KeyFileError, match="No space left on device"):
        save_key(path, key(), None)
    assert list(path.parent.iterdir()) == []


@pytest.mark.parametrize("read", [lambda p: load_key(p, None), read_header], ids=["load_key", "read_header"])
def test_a_file_open_to_others_or_missing_is_refused(path: Path, read: Callable[[Path], object]) -> None:
    with pytest.raises(KeyFileError, match=r"no such file; make a key with orchestrator/keys\.py new"):
        read(path)
    save_key(path, key(), None)
    for mode in (0o640, 0o604, 0o660):
        path.chmod(mode)
        with pytest.raises(KeyFileError, match=f"mode {mode:04o} .* chmod 600 {path}"):
            read(path)


def test_a_malformed_key_is_not_saved(path: Path) -> None:
    with pytest.raises(KeyMaterialError, match="not Blum primes"):
        save_key(path, PaillierKey(not_blum(), "blum", CREATED), None)
    assert not path.exists()


def not_blum() -> PaillierPrivateKey:
    while True:
        _public, private = generate_paillier_keypair(n_length=BITS)
        if private.p % 4 == 1:
            return private


# Malformed keys


def blum_prime(start: int) -> int:
    """The next prime that is 3 mod 4."""
    start += 3 - start % 4
    while not is_prime(start):
        start += 4
    return start


HALF = BITS // 2
P = blum_prime(3 << HALF - 2)
Q = blum_prime(P + (1 << HALF - 4))
MALFORMED: list[tuple[str, dict[str, Any], str]] = [
    ("even n", {"p": P, "q": Q, "n": P * Q + 1}, "n is even"),
    (
        "bit size",
        {"p": P, "q": Q, "key_length": BITS * 2},
        f"n has {BITS} bits; expected key_length, which is {BITS * 2}",
    ),
    ("square", {"p": P, "q": P}, "n is a perfect square"),
    ("equal", {"p": P, "q": P, "n": P * Q}, "p and q are the same number"),
    ("order", {"p": Q, "q": P}, "p is larger than q"),
    ("small factor", {"p": 10_007, "q": P}, "n has a small factor"),
    ("product", {"p": P, "q": blum_prime(Q + 4), "n": P * Q}, "n is not p times q"),
    ("lengths", {"p": blum_prime(1 << 100), "q": blum_prime(1 << 400)}, "p and q differ in length"),
    ("p", {"p": blum_prime(7 << 125) * blum_prime(7 << 125), "q": Q}, "p is composite"),
    ("q", {"p": P, "q": blum_prime(7 << 125) * blum_prime(15 << 124)}, "q is composite"),
    ("blum", {"p": P, "q": next(q for q in range(Q + 2, Q + 10_000, 4) if is_prime(q))}, "not Blum primes"),
    ("fingerprint", {"p": P, "q": Q, "fingerprint": fingerprint(P)}, "the fingerprint is not that of n"),
    ("kind", {"p": P, "q": Q, "kind": "rsa"}, "unknown kind; expected one of blum, subgroup"),
    ("created", {"p": P, "q": Q, "created": "yesterday"}, "created is malformed"),
    ("version", {"p": P, "q": Q, "version": 2}, "another version"),
    ("format", {"p": P, "q": Q, "format": "pem"}, "not a key file"),
    ("unknown field", {"p": P, "q": Q, "comment": ""}, "missing or unknown"),
    ("huge", {"p": P, "q": Q, "key_length": 1 << 20}, "key_length is out of range"),
    ("bool", {"p": P, "q": Q, "key_length": True}, "key_length is out of range"),
    ("upper case", {"p": P, "q": Q, "secret": {"p": f"{P:X}", "q": f"{Q:x}"}}, "p is malformed"),
    ("leading zero", {"p": P, "q": Q, "secret": {"p": f"{P:x}", "q": f"0{Q:x}"}}, "q is malformed"),
    ("negative", {"p": P, "q": Q, "secret": {"p": f"-{P:x}", "q": f"-{Q:x}"}}, "p is malformed"),
    ("number", {"p": P, "q": Q, "secret": {"p": P, "q": Q}}, "p is malformed"),
    ("no secret", {"p": P, "q": Q, "secret": None}, "the secret part is malformed"),
    ("no q", {"p": P, "q": Q, "secret": {"p": f"{P:x}"}}, "missing or unknown fields"),
    (
        "sub-primes",
        {"p": P, "q": Q, "secret": {"p": f"{P:x}", "q": f"{Q:x}", "sub_p": "3", "sub_q": "3"}},
        "sub-primes are given",
    ),
]


@pytest.mark.parametrize(("numbers", "words"), [case[1:] for case in MALFORMED], ids=[case[0] for case in MALFORMED])
def test_a_malformed_key_is_refused_in_its_own_words(path: Path, numbers: dict[str, Any], words: str) -> None:
    write_numbers(path, **numbers)
    with pytest.raises(KeyMaterialError, match=words) as caught:
        load_key(path, None)
    message = str(caught.value)
    assert message.startswith(f"{path}: ")
    assert "restore the file from a backup, or make a new key" in message
    assert not any(f"{numbers[name]:x}" in message or str(numbers[name]) in message for name in ("p", "q"))


def test_the_helper_of_the_malformed_makes_good_files_too(path: Path) -> None:
    """Without this, each refusal above could be for a reason of the helper's."""
    write_numbers(path, P, Q)
    assert load_key(path, None).private.p == P


def test_another_keys_secret_under_this_header_is_refused(path: Path) -> None:
    save_key(path, key(), None)
    other = blum_keypair(BITS, "blum")[1]
    edit(path, lambda raw: raw.update(secret={"p": f"{other.p:x}", "q": f"{other.q:x}"}))
    with pytest.raises(KeyMaterialError, match="n is not p times q"):
        load_key(path, None)


def test_a_truncated_file_is_refused(path: Path) -> None:
    save_key(path, key(), None)
    data = path.read_bytes().rstrip()
    for length in range(0, len(data), 3):
        path.write_bytes(data[:length])
        with pytest.raises(KeyMaterialError) as caught:
            load_key(path, None)
        assert not any(secret in str(caught.value) for secret in secret_texts(key()))


def test_a_field_given_twice_is_refused(path: Path) -> None:
    save_key(path, key(), None)
    path.write_text(path.read_text().replace('"kind"', '"kind": "blum", "kind"'))
    with pytest.raises(KeyMaterialError, match="given twice"):
        load_key(path, None)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["p", "q", "kdf", "salt"]), inner),
    max_leaves=4,
)


@settings(deadline=None)
@given(field=st.sampled_from(sorted(key_files._HEADER_FIELDS | {"secret"})), value=JSON)
def test_hostile_fields_raise_only_the_typed_error(
    tmp_path_factory: pytest.TempPathFactory, field: str, value: Any
) -> None:
    path = tmp_path_factory.getbasetemp() / "fuzz.json"
    write_numbers(path, P, Q)
    assume(value is not None or field != "protection")  # the one value here that is as it should be
    assume(not (type(value) is int and field == "version" and value == 1))
    edit(path, lambda raw: raw.update({field: value}))
    with pytest.raises(KeyMaterialError):
        load_key(path, PASSPHRASE)


# The passphrase


def test_an_encrypted_file_without_a_passphrase_names_the_variable(path: Path, encrypted: bytes) -> None:
    path.write_bytes(encrypted)
    path.chmod(0o600)
    with pytest.raises(PassphraseError, match="set the environment variable ORCHESTRATOR_KEY_PASSPHRASE"):
        load_key(path, None)


def test_a_wrong_passphrase_is_refused_and_not_shown(path: Path, encrypted: bytes) -> None:
    path.write_bytes(encrypted)
    path.chmod(0o600)
    with pytest.raises(PassphraseError, match="does not open this file") as caught:
        load_key(path, "wrong guess")
    assert "wrong guess" not in str(caught.value)


def flip(text: str) -> str:
    return text[:-1] + ("0" if text[-1] != "0" else "1")


TAMPERED: list[tuple[str, Callable[[dict[str, Any]], None], type[KeyMaterialError]]] = [
    ("kind", lambda raw: raw.update(kind="subgroup"), PassphraseError),
    ("created", lambda raw: raw.update(created="2027-01-31T12:00:00Z"), PassphraseError),
    ("secret", lambda raw: raw.update(secret=flip(raw["secret"])), PassphraseError),
    ("truncated", lambda raw: raw.update(secret=raw["secret"][:-2]), PassphraseError),
    ("empty", lambda raw: raw.update(secret=""), PassphraseError),
    ("salt", lambda raw: raw["protection"].update(salt=flip(raw["protection"]["salt"])), PassphraseError),
    ("nonce", lambda raw: raw["protection"].update(nonce=flip(raw["protection"]["nonce"])), PassphraseError),
    ("n", lambda raw: raw.update(n=f"{P * Q:x}", fingerprint=fingerprint(P * Q)), PassphraseError),
    ("odd hex", lambda raw: raw.update(secret=raw["secret"][:-1]), KeyMaterialError),
    ("short salt", lambda raw: raw["protection"].update(salt="00"), KeyMaterialError),
    ("fingerprint", lambda raw: raw.update(fingerprint=flip(raw["fingerprint"])), KeyMaterialError),
    ("greedy scrypt", lambda raw: raw["protection"].update(n=1 << 40), KeyMaterialError),
    ("weak scrypt", lambda raw: raw["protection"].update(n=2), KeyMaterialError),
    ("another cipher", lambda raw: raw["protection"].update(cipher="none"), KeyMaterialError),
    ("no nonce", lambda raw: raw["protection"].pop("nonce"), KeyMaterialError),
    ("stripped", lambda raw: raw.update(protection=None), KeyMaterialError),
]


@pytest.mark.parametrize(("change", "error"), [case[1:] for case in TAMPERED], ids=[case[0] for case in TAMPERED])
def test_a_tampered_encrypted_file_is_refused(
    path: Path, encrypted: bytes, change: Callable[[dict[str, Any]], None], error: type[KeyMaterialError]
) -> None:
    path.write_bytes(encrypted)
    path.chmod(0o600)
    edit(path, change)
    with pytest.raises(KeyMaterialError) as caught:
        load_key(path, PASSPHRASE)
    assert type(caught.value) is error


def test_the_passphrase_comes_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(PASSPHRASE_VARIABLE, raising=False)
    assert passphrase_from_environment() is None
    monkeypatch.setenv(PASSPHRASE_VARIABLE, PASSPHRASE)
    assert passphrase_from_environment() == PASSPHRASE
    monkeypatch.setenv(PASSPHRASE_VARIABLE, "")
    with pytest.raises(PassphraseError, match="set but empty"):
        passphrase_from_environment()


# Nothing secret is shown


def test_a_key_shows_and_pickles_no_secret() -> None:
    shown = f"{key()!r} {key()} {[key()]}"
    assert key().fingerprint in shown
    assert not any(secret in shown for secret in secret_texts(key()))
    for leak in (pickle.dumps, copy.copy, copy.deepcopy):
        with pytest.raises(KeyMaterialError, match="never pickled"):
            leak(key())


# New and rotate, with a small key


def test_rotate_keeps_the_old_file_and_its_mode(path: Path) -> None:
    first = new_key(path, BITS, "blum", None, blum_keypair)
    before = path.read_bytes()
    old, new, kept = rotate_key(path, None, None, None, blum_keypair)
    assert kept.read_bytes() == before
    assert kept.name.startswith(f"paillier.json.{datetime.now(UTC):%Y}")
    assert {stat.S_IMODE(file.stat().st_mode) for file in (path, kept)} == {0o600}
    assert old == first
    assert load_key(path, None) == new
    assert new.key_length == BITS
    assert new.fingerprint != old.fingerprint


def test_rotate_leaves_the_key_in_place_when_the_new_one_is_malformed(path: Path) -> None:
    key = new_key(path, BITS, "blum", None, blum_keypair)
    with pytest.raises(KeyMaterialError, match="not Blum primes"):
        rotate_key(path, None, None, None, lambda _bits, _kind: (None, not_blum()))
    assert load_key(path, None) == key


def test_new_does_not_make_a_key_for_a_name_that_is_taken(path: Path) -> None:
    path.write_text("precious")

    def never(_bits: int, _kind: str) -> tuple[PaillierPublicKey, PaillierPrivateKey]:
        raise AssertionError

    with pytest.raises(KeyFileError, match="already exists"):
        new_key(path, BITS, "blum", None, never)


# The script, as a person runs it


def run(*arguments: str | Path, **environment: str) -> subprocess.CompletedProcess[str]:
    inherited = {k: v for k, v in os.environ.items() if k != PASSPHRASE_VARIABLE}
    return subprocess.run(
        [sys.executable, "orchestrator/keys.py", *map(str, arguments)],
        cwd=REPOSITORY,
        env=inherited | {"PYTHONPATH": str(REPOSITORY)} | environment,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def test_the_script_makes_shows_and_rotates(path: Path) -> None:
    made = run("new", "--out", path, "--key_length", "2048")
    assert made.returncode == 0, made.stderr
    old = load_key(path, None)
    shown = run("show", "--out", path)
    assert shown.returncode == 0, shown.stderr
    assert [line.split()[:2] for line in shown.stdout.splitlines()] == [
        ["kind", "blum"],
        ["key_length", "2048"],
        ["fingerprint", old.fingerprint],
        ["created", f"{old.created:%Y-%m-%d}"],
        ["protected", "no"],
    ]

    rotated = run("rotate", "--out", path, **{PASSPHRASE_VARIABLE: PASSPHRASE})
    assert rotated.returncode == 0, rotated.stderr
    new = load_key(path, PASSPHRASE)
    assert old.fingerprint in rotated.stdout
    assert new.fingerprint in rotated.stdout
    assert read_header(path).protected  # and it is shown without the passphrase
    refused = run("rotate", "--out", path)
    assert (refused.returncode, refused.stdout) == (1, "")
    assert refused.stderr.count("\n") == 1
    assert PASSPHRASE_VARIABLE in refused.stderr

    everything = "".join(result.stdout + result.stderr for result in (made, shown, rotated, refused))
    for secret in (*secret_texts(old), *secret_texts(new), PASSPHRASE):
        assert secret[:16] not in everything


@pytest.mark.parametrize(
    ("arguments", "words", "status"),
    [
        (("show",), "no such file", 1),
        (("rotate",), "no such file", 1),
        (("new", "--key_length", "1024"), "multiple of 16 from 2048", 2),
        (("new", "--key_length", "many"), "multiple of 16 from 2048", 2),
        (("new", "--kind", "rsa"), "invalid choice", 2),
    ],
)
def test_the_script_refuses_in_plain_words(path: Path, arguments: tuple[str, ...], words: str, status: int) -> None:
    result = run(*arguments, "--out", path)
    assert result.returncode == status
    assert words in result.stderr
    assert "Traceback" not in result.stderr
    assert not path.exists()
