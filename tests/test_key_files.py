"""The Paillier key file: what is written, what is refused, and that nothing secret is ever shown."""

import copy
import json
import os
import pickle
import stat
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cache
from hashlib import sha256
from pathlib import Path
from typing import Any

import gmpy2
import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from phe.paillier import PaillierPublicKey

from orchestrator import keys
from orchestrator.keys import new_key, rotate_key
from shared import key_files
from shared.errors import KeyMaterialError, PassphraseError
from shared.he.fixed_point import FixedPoint
from shared.he.keys import PublicKeyMaterial, generate_keypair
from shared.he.modulus_proof import prove, verify
from shared.he.paillier import PaillierPrivate, PaillierPublic
from shared.key_files import (
    PASSPHRASE_VARIABLE,
    PaillierKey,
    load_key,
    passphrase_from_environment,
    read_header,
    save_key,
)

REPOSITORY = Path(__file__).parents[1]
BITS = 512  # small: these tests are about the file
CREATED = datetime(2026, 1, 31, 12, 0, 0, tzinfo=UTC)
PASSPHRASE = "correct horse battery staple"


@cache
def key(_number: int = 0) -> PaillierKey:
    """One key for each number."""
    public, private = generate_keypair(BITS)
    return PaillierKey(public, private, CREATED, prove(private.private_key.p, private.private_key.q))


def secret_texts(key: PaillierKey) -> list[str]:
    private = key.private
    numbers = (private.private_key.p, private.private_key.q)
    return [text for number in numbers for text in (str(number), f"{number:x}", f"{number:X}")]


def edit(path: Path, change: Callable[[dict[str, Any]], None]) -> None:
    raw = json.loads(path.read_text())
    change(raw)
    path.write_text(json.dumps(raw))


def fingerprint_of(n: int) -> str:
    return PublicKeyMaterial(PaillierPublicKey(n)).fingerprint()


def write_numbers(path: Path, p: int, q: int, n: int | None = None, **fields: Any) -> None:
    """A key file of these numbers in which everything else is as it should be; of version 1, so without a proof."""
    n = p * q if n is None else n
    raw = {
        "format": "paillier-private-key",
        "version": 1,
        "kind": "blum",
        "key_length": n.bit_length(),
        "fingerprint": fingerprint_of(n),
        "created": "2026-01-31T12:00:00Z",
        "n": f"{n:x}",
        "base": None,
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
    assert loaded == key()
    assert loaded.public.to_bytes() == key().public.to_bytes()
    scheme = PaillierPublic(loaded.public, FixedPoint(20, 4), max_contributors=3)
    decrypted = PaillierPrivate(loaded.private, scheme).decrypt_sum(
        scheme.encrypt(np.array([1.5, -2.0])).ciphertexts, 2, 1
    )
    assert decrypted.tolist() == [1.5, -2.0]


def test_the_fingerprint_is_one_on_the_wire_in_the_file_and_in_the_header(path: Path) -> None:
    save_key(path, key(), None)
    scheme = PaillierPublic(key().public, FixedPoint(20, 4), max_contributors=3)
    stated = json.loads(path.read_text())["fingerprint"]
    assert {scheme.fingerprint(), load_key(path, None).public.fingerprint(), read_header(path).fingerprint} == {stated}
    assert stated == sha256(b"paillier\0" + scheme.public_bytes()).hexdigest()


def test_a_key_survives_its_encrypted_file(path: Path, encrypted: bytes) -> None:
    path.write_bytes(encrypted)
    path.chmod(0o600)
    assert load_key(path, PASSPHRASE) == key()
    assert not any(secret in encrypted.decode() for secret in secret_texts(key()))


@pytest.mark.parametrize("passphrase", [None, PASSPHRASE])
def test_a_key_of_the_withdrawn_kind_is_refused_in_one_line(path: Path, passphrase: str | None) -> None:
    """Such a file had a base and two more secrets. Nothing is asked of it, not even its passphrase."""
    save_key(path, key(), passphrase)
    edit(path, lambda raw: raw.update(kind="subgroup", base="4"))
    if passphrase is None:
        edit(path, lambda raw: raw["secret"].update(alpha_p="3", alpha_q="5"))
    for read in (read_header, lambda file: load_key(file, None)):
        with pytest.raises(KeyMaterialError) as caught:
            read(path)
        assert str(caught.value) == (
            f"{path}: this key is of kind subgroup, which is no longer supported; make a new one with "
            "orchestrator/keys.py"
        )


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
    with pytest.raises(KeyMaterialError, match="already exists"):
        save_key(path, key(), None)
    assert path.read_text() == "precious"
    assert list(path.parent.iterdir()) == [path]


def test_a_failed_write_leaves_nothing_behind(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_space(_descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", no_space)
    with pytest.raises(KeyMaterialError, match="No space left on device; make room"):
        save_key(path, key(), None)
    assert list(path.parent.iterdir()) == []


@pytest.mark.parametrize("read", [lambda p: load_key(p, None), read_header], ids=["load_key", "read_header"])
def test_a_file_open_to_others_or_missing_is_refused(path: Path, read: Callable[[Path], object]) -> None:
    with pytest.raises(KeyMaterialError, match=r"no such file; make a key with orchestrator/keys\.py new"):
        read(path)
    save_key(path, key(), None)
    for mode in (0o640, 0o604, 0o660):
        path.chmod(mode)
        with pytest.raises(KeyMaterialError, match=f"mode {mode:04o} .* chmod 600 {path}"):
            read(path)


def test_halves_of_two_keys_are_not_saved(path: Path) -> None:
    with pytest.raises(KeyMaterialError, match="do not belong together"):
        save_key(path, mismatched(), None)
    assert not path.exists()


def mismatched() -> PaillierKey:
    return PaillierKey(key().public, generate_keypair(BITS)[1], CREATED, key().proof)


# Malformed keys


def prime_after(start: int, residue: int = 3) -> int:
    """The next prime that is 3 mod 4, or 1."""
    start += (residue - start) % 4
    while not gmpy2.is_prime(start):
        start += 4
    return start


HALF = BITS // 2
P = prime_after(3 << HALF - 2)
Q = prime_after(P + (1 << HALF - 4))
MALFORMED: list[tuple[str, dict[str, Any], str]] = [
    ("even n", {"p": P, "q": Q, "n": P * Q + 1}, "n is even"),
    (
        "bit size",
        {"p": P, "q": Q, "key_length": BITS * 2},
        f"n has {BITS} bits; expected exactly {BITS * 2}",
    ),
    ("square", {"p": P, "q": P}, "n is a perfect power"),
    ("equal", {"p": P, "q": P, "n": P * Q}, "p·q is not n"),
    ("order", {"p": Q, "q": P}, "p is larger than q"),
    ("small factor", {"p": 10_007, "q": P}, "n has a prime factor below 65536"),
    ("product", {"p": P, "q": prime_after(Q + 4), "n": P * Q}, "p·q is not n"),
    ("lengths", {"p": prime_after(1 << 100), "q": prime_after(1 << 400)}, "p and q differ in length"),
    ("p", {"p": prime_after(7 << 125) * prime_after(7 << 125, 1), "q": Q}, "p is not prime"),
    ("q", {"p": P, "q": prime_after(7 << 125) * prime_after(15 << 124, 1)}, "q is not prime"),
    ("n mod 4", {"p": P, "q": prime_after(Q, 1)}, "n is not 1 mod 4"),
    ("p mod 4", {"p": prime_after(P, 1), "q": prime_after(Q, 1)}, "p is not 3 mod 4"),
    ("close", {"p": P, "q": prime_after(P + 4)}, "too close together"),
    ("fingerprint", {"p": P, "q": Q, "fingerprint": sha256(b"paillier").hexdigest()}, "the fingerprint is not that"),
    ("base", {"p": P, "q": Q, "base": "4"}, "base is not null"),
    ("kind", {"p": P, "q": Q, "kind": "rsa"}, "unknown kind; expected blum"),
    ("created", {"p": P, "q": Q, "created": "yesterday"}, "created is malformed"),
    ("version", {"p": P, "q": Q, "version": 3}, "another version"),
    ("no version", {"p": P, "q": Q, "version": 0}, "another version"),
    ("version 2 without a proof", {"p": P, "q": Q, "version": 2}, "expected those of version 2"),
    ("version 1 with a proof", {"p": P, "q": Q, "proof": ""}, "expected those of version 1"),
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
        {"p": P, "q": Q, "secret": {"p": f"{P:x}", "q": f"{Q:x}", "alpha_p": "3", "alpha_q": "3"}},
        "unknown fields; expected p, q;",
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
    assert load_key(path, None).private.private_key.p == P


def test_another_keys_secret_under_this_header_is_refused(path: Path) -> None:
    save_key(path, key(), None)
    other = generate_keypair(BITS)[1].private_key
    edit(path, lambda raw: raw.update(secret={"p": f"{other.p:x}", "q": f"{other.q:x}"}))
    with pytest.raises(KeyMaterialError, match="do not belong together"):
        load_key(path, None)


def test_the_proof_is_stored_with_the_key(path: Path) -> None:
    save_key(path, key(), None)
    assert load_key(path, None).proof == key().proof
    assert read_header(path).proven


def test_a_file_of_version_1_still_loads_and_its_proof_is_made_anew(path: Path) -> None:
    write_numbers(path, P, Q)
    assert not read_header(path).proven
    verify(P * Q, load_key(path, None).proof)


# As the version before this one wrote it, under PASSPHRASE.
VERSION_1 = (
    '{"format": "paillier-private-key", "version": 1, "kind": "blum", "key_length": 512, "fingerprint": "'
    '598a4d0c5de8c83ca3a505f5dbe6f54f4e640982ff3b88463cc01ebb8e839343", "created": "2026-01-31T12:00:00Z"'
    ', "n": "a70b8b1c0c1b07fd38f93a007be3208b1c285a00f8a5d1754644aa43c54eb78b035ed0aac61b58180518fc3def88'
    'f96e70362a477adca8d733d5ad889185afc1", "base": null, "protection": {"kdf": "scrypt", "n": 131072, "r'
    '": 8, "p": 1, "cipher": "chacha20-poly1305", "salt": "cb3f5f9f6cc1f467f1bc27e2c01a783a", "nonce": "2'
    '37ce65b5f2f20a350120d70"}, "secret": "ea073cf839ad5f2e62b19e6650a5b6f89de0ac83e9a98b12621d7e07ca7982'
    "95f913260fda276cc6545e1e638b85caada8dc8a4c92e086b273541a507730b894874a7957772251dcf96b4e530e9f419471"
    "fa71ad6f7979e794f92bcd1dd92718b3a2a6bbef082bce76a81fb18b2bfa4696fce70f01e694a564410e1e55ded38faa9618"
    '69ae216c06cf81a3478178adedd8723f62f3b4dd790a8cd37a966fb3346e84"}'
)


def test_an_encrypted_file_of_version_1_still_loads(path: Path) -> None:
    path.write_text(VERSION_1)
    path.chmod(0o600)
    loaded = load_key(path, PASSPHRASE)
    verify(loaded.public.public_key.n, loaded.proof)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda proof: "", "0 bytes; expected"),
        (lambda proof: proof[:-2], "bytes; expected"),
        (lambda proof: proof + "00", "bytes; expected"),
        (lambda proof: proof[:-1], "a field of bytes is malformed"),
        (lambda proof: None, "a field of bytes is malformed"),
        (lambda proof: flip(proof), "damaged or of another key"),
        (lambda proof: key(1).proof.hex(), "damaged or of another key|a root is not below n"),
    ],
)
def test_a_file_with_another_proof_is_refused(path: Path, change: Callable[[str], object], words: str) -> None:
    save_key(path, key(), None)
    edit(path, lambda raw: raw.update(proof=change(raw["proof"])))
    for read in (read_header, lambda file: load_key(file, None)):
        with pytest.raises(KeyMaterialError, match=words):
            read(path)


def test_a_truncated_file_is_refused(path: Path) -> None:
    save_key(path, key(), None)
    data = path.read_bytes().rstrip()
    for length in (*range(0, len(data), 97), *range(len(data) - 300, len(data), 3)):
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


@given(field=st.sampled_from(sorted(key_files._HEADER_FIELDS | {"secret"})), value=JSON)
def test_hostile_fields_raise_only_the_typed_error(
    tmp_path_factory: pytest.TempPathFactory, field: str, value: Any
) -> None:
    path = tmp_path_factory.getbasetemp() / "fuzz.json"
    write_numbers(path, P, Q)
    assume(value is not None or field not in {"base", "protection"})  # the one value that is as it should be there
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
    ("kind", lambda raw: raw.update(kind="subgroup"), KeyMaterialError),
    ("base", lambda raw: raw.update(base="4"), KeyMaterialError),
    ("created", lambda raw: raw.update(created="2027-01-31T12:00:00Z"), PassphraseError),
    ("secret", lambda raw: raw.update(secret=flip(raw["secret"])), PassphraseError),
    ("truncated", lambda raw: raw.update(secret=raw["secret"][:-2]), PassphraseError),
    ("empty", lambda raw: raw.update(secret=""), PassphraseError),
    ("salt", lambda raw: raw["protection"].update(salt=flip(raw["protection"]["salt"])), PassphraseError),
    ("nonce", lambda raw: raw["protection"].update(nonce=flip(raw["protection"]["nonce"])), PassphraseError),
    ("n", lambda raw: raw.update(n=f"{P * Q:x}", fingerprint=fingerprint_of(P * Q)), PassphraseError),
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
    assert key().public.fingerprint() in shown
    assert not any(secret in shown for secret in secret_texts(key()))
    for leak in (pickle.dumps, copy.copy, copy.deepcopy):
        with pytest.raises(KeyMaterialError, match="never pickled"):
            leak(key())


# New and rotate, with a small key


def test_rotate_keeps_the_old_file_and_its_mode(path: Path) -> None:
    first = new_key(path, BITS, None)
    before = path.read_bytes()
    old, new, kept = rotate_key(path, None, None)
    assert kept.read_bytes() == before
    assert kept.name.startswith(f"paillier.json.{datetime.now(UTC):%Y}")
    assert {stat.S_IMODE(file.stat().st_mode) for file in (path, kept)} == {0o600}
    assert old == first
    assert load_key(path, None) == new
    assert new.key_length == BITS
    assert new.public.fingerprint() != old.public.fingerprint()


def test_rotate_can_change_the_length(path: Path) -> None:
    new_key(path, BITS, None)
    _old, new, _kept = rotate_key(path, BITS + 64, None)
    assert new.key_length == BITS + 64
    assert load_key(path, None) == new


def test_rotate_leaves_the_key_in_place_when_the_new_one_is_malformed(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = new_key(path, BITS, None)
    monkeypatch.setattr(keys, "generate_keypair", lambda _bits: (mismatched().public, mismatched().private))
    with pytest.raises(KeyMaterialError, match="do not belong together"):
        rotate_key(path, None, None)
    assert load_key(path, None) == first


def test_new_does_not_make_a_key_for_a_name_that_is_taken(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path.write_text("precious")
    monkeypatch.delattr(keys, "generate_keypair")
    with pytest.raises(KeyMaterialError, match="already exists"):
        new_key(path, BITS, None)


# The script


@dataclass(frozen=True)
class Ended:
    """The exit code of the script, and what it printed."""

    returncode: int
    stdout: str
    stderr: str


Run = Callable[..., Ended]


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Run:
    """Runs the script's main part, in an environment without a passphrase but for the one given."""

    def run_it(*arguments: str | Path, passphrase: str | None = None) -> Ended:
        monkeypatch.delenv(PASSPHRASE_VARIABLE, raising=False)
        if passphrase is not None:
            monkeypatch.setenv(PASSPHRASE_VARIABLE, passphrase)
        try:
            code = keys.main([str(argument) for argument in arguments])
        except SystemExit as end:  # how argparse ends
            code = int(end.code or 0)
        return Ended(code, *capsys.readouterr())

    return run_it


def test_the_script_makes_shows_and_rotates(path: Path, run: Run) -> None:
    made = run("new", "--out", path, "--key_length", "2048")
    assert made.returncode == 0, made.stderr
    old = load_key(path, None)
    shown = run("show", "--out", path)
    assert shown.returncode == 0, shown.stderr
    assert [line.split()[:2] for line in shown.stdout.splitlines()] == [
        ["key_length", "2048"],
        ["fingerprint", old.public.fingerprint()],
        ["created", f"{old.created:%Y-%m-%d}"],
        ["proof", "yes"],
        ["protected", "no"],
    ]

    rotated = run("rotate", "--out", path, passphrase=PASSPHRASE)
    assert rotated.returncode == 0, rotated.stderr
    new = load_key(path, PASSPHRASE)
    assert old.public.fingerprint() in rotated.stdout
    assert new.public.fingerprint() in rotated.stdout
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
        (("new", "--kind", "blum"), "unrecognized arguments", 2),
    ],
)
def test_the_script_refuses_in_plain_words(
    path: Path, run: Run, arguments: tuple[str, ...], words: str, status: int
) -> None:
    result = run(*arguments, "--out", path)
    assert result.returncode == status
    assert words in result.stderr
    assert "Traceback" not in result.stderr
    assert not path.exists()
