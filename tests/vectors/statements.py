"""Statements, signatures and replays that are refused although the payload is an honest one."""

import dataclasses
from collections.abc import Iterator, Sequence
from typing import Any

from shared.identity import STATEMENT_PREFIX, UpdateStatement
from shared.wire import dump_update
from tests.vectors.world import (
    ATTACKER,
    FOREIGN,
    HONEST,
    REVOKED,
    ROUND,
    HostileUpdate,
    Scalar,
    blobs,
    encrypt,
    header,
    honest_payload,
    identity,
    keys,
    nonce,
    npy,
    randomiser,
    statement,
)

ORDER = 2**252 + 27742317777372353535851937790883648493  # of Ed25519's group, RFC 8032 section 5.1


def statements() -> Iterator[HostileUpdate]:
    """An honest payload with another statement, or another signature."""
    payload = honest_payload(ATTACKER)
    said = statement(ATTACKER, payload)
    data = said.to_bytes()
    signature = identity(ATTACKER).sign(data)

    def sent(name: str, about: str, error: str, words: Scalar, proof: Scalar, client: str = ATTACKER) -> HostileUpdate:
        return HostileUpdate(f"statement-{name}", about, error, npy(payload), words, proof, client)

    def changed(name: str, about: str, error: str, **changes: Any) -> HostileUpdate:
        words = dataclasses.replace(said, **changes).to_bytes()
        return sent(name, about, error, words, identity(ATTACKER).sign(words))

    def resigned(name: str, about: str, words: bytes) -> HostileUpdate:
        return sent(name, about, "MalformedStatementError", words, identity(ATTACKER).sign(words))

    digest = "ab" * 32
    yield changed("round-stale", "the round before", "StaleRoundError", server_round=ROUND - 1)
    yield changed("round-future", "the next round", "StaleRoundError", server_round=ROUND + 1)
    yield changed("round-largest", "round 2**63 - 1", "StaleRoundError", server_round=(1 << 63) - 1)
    yield changed("run", "another run", "WrongRunError", run_id="another-run")
    yield changed("run-case", "the run in capitals", "WrongRunError", run_id=said.run_id.upper())
    yield changed("nonce-zero", "a nonce of zeros", "WrongNonceError", nonce=bytes(32))
    yield changed("nonce-old", "this client's nonce of the round before", "WrongNonceError", nonce=nonce(ATTACKER, 2))
    yield changed("nonce-of-another", "another client's nonce of this round", "WrongNonceError", nonce=nonce("0"))
    yield changed("key", "another public key", "WrongKeyError", key_fingerprint=digest)
    yield changed("key-other", "the other key's", "WrongKeyError", key_fingerprint=keys("other_").public.fingerprint())
    yield changed("model", "another global model", "WrongTaskError", task_sha256=digest)
    yield changed("payload", "another payload", "WrongPayloadError", payload_sha256=digest)
    yield changed("client-not-enrolled", "in a foreign name", "NotEnrolledError", client_id="client-9")
    yield changed("client-unnumbered", "in the name of no client", "NotEnrolledError", client_id="client")
    yield changed("client-revoked", "in the name of a revoked client", "RevokedClientError", client_id="client-3")
    yield changed("client-another", "in another's name, signed by oneself", "BadSignatureError", client_id="client-0")

    fields = _fields(said)

    def join(items: Sequence[bytes]) -> bytes:
        return STATEMENT_PREFIX + b"".join(len(item).to_bytes(4, "big") + item for item in items)

    place = {name: index for index, name in enumerate(_NAMES)}

    def field(name: str, value: bytes) -> bytes:
        return join([*fields[: place[name]], value, *fields[place[name] + 1 :]])

    for name, about, words in (
        ("empty", "no bytes", b""),
        ("prefix-alone", "the prefix and nothing after it", STATEMENT_PREFIX),
        ("prefix-v2", "the prefix of another version", data.replace(b"v1\0", b"v2\0", 1)),
        ("prefix-missing", "no prefix", data[len(STATEMENT_PREFIX) :]),
        ("truncated", "the last byte is missing", data[:-1]),
        ("trailing", "one byte more", data + b"\0"),
        ("trailing-field", "an empty eighth field", data + bytes(4)),
        ("field-missing", "no payload hash", join(fields[:-1])),
        ("field-twice", "the payload hash twice", join([*fields, fields[-1]])),
        ("length-huge", "a field that announces 4 GB", data.replace(b"\0\0\0\x0b", b"\xff\xff\xff\xff", 1)),
        ("too-long", "513 bytes", join([*fields[:-1], bytes(513 - len(join(fields[:-1])) - 4)])),
        ("megabyte", "a megabyte of run id", join([b"a" * 4096, *fields[1:]])),
        ("round-zero", "round 0", field("round", bytes(8))),
        ("round-sign", "round 2**63", field("round", b"\x80" + bytes(7))),
        ("round-short", "a round of 7 bytes", field("round", bytes(6) + b"\3")),
        ("round-long", "a round of 9 bytes", field("round", bytes(8) + b"\3")),
        ("nonce-short", "a nonce of 31 bytes", field("nonce", nonce(ATTACKER)[1:])),
        ("nonce-empty", "no nonce", field("nonce", b"")),
        ("hash-short", "a payload hash of 31 bytes", field("payload", fields[-1][1:])),
        ("name-empty", "a client with no name", field("client", b"")),
        ("name-long", "a client's name of 65 letters", field("client", b"a" * 65)),
        ("name-look-alike", "`client-1` with a Cyrillic с", field("client", "сlient-1".encode())),
        ("name-newline", "a client's name with a newline after it", field("client", b"client-1\n")),
        ("name-nul", "a client's name with a NUL after it", field("client", b"client-1\0")),
        ("name-path", "a client's name that climbs up folders", field("client", b"../client-1")),
        ("name-escape", "a client's name that clears a terminal", field("client", b"\x1b[2Jclient")),
        ("fields-swapped", "client and run changed places with the nonce between", join([*fields[2:], *fields[:2]])),
    ):
        yield resigned(name, about, words)

    bad = "BadSignatureError"
    yield sent("none", "no statement and no signature", bad, None, None)
    for name, value in (("text", "statement"), ("true", True), ("float", 1.5), ("number", 7), ("nothing", None)):
        yield sent(f"as-{name}", f"the statement is {value!r}", bad, value, signature)
        yield sent(f"signature-as-{name}", f"the signature is {value!r}", bad, data, value)
    s = int.from_bytes(signature[32:], "little")
    flipped = bytes([signature[0] ^ 1]) + signature[1:]
    for name, about, proof in (
        ("empty", "an empty signature", b""),
        ("truncated", "a signature of 63 bytes", signature[:-1]),
        ("half", "the first half of the signature", signature[:32]),
        ("long", "one byte after the signature", signature + b"\0"),
        ("zero", "a signature of zeros", bytes(64)),
        ("flipped", "one bit of the signature flipped", flipped),
        (
            "malleated",
            "the same with the group's order added to S",
            signature[:32] + (s + ORDER).to_bytes(32, "little"),
        ),
        ("small-order", "R the neutral element and S zero", b"\1" + bytes(63)),
        ("of-another", "another client's signature of this statement", identity("0").sign(data)),
        ("of-revoked", "a revoked client's signature of this statement", identity(REVOKED).sign(data)),
        ("of-payload", "a signature of the payload, not of the statement", identity(ATTACKER).sign(payload)),
        ("unprefixed", "a signature without the prefix", identity(ATTACKER).sign(data[len(STATEMENT_PREFIX) :])),
    ):
        yield sent(f"signature-{name}", about, bad, data, proof)


_NAMES = ("run", "round", "nonce", "client", "key", "model", "payload")


def _fields(said: UpdateStatement) -> list[bytes]:
    return [
        said.run_id.encode(),
        said.server_round.to_bytes(8, "big"),
        said.nonce,
        said.client_id.encode(),
        bytes.fromhex(said.key_fingerprint),
        bytes.fromhex(said.task_sha256),
        bytes.fromhex(said.payload_sha256),
    ]


def replays() -> Iterator[HostileUpdate]:
    """Honest updates at another time, from another client, or once too often."""
    old = dump_update(header(round=ROUND - 1), blobs(encrypt(ATTACKER, label="round 2")))
    old_words = statement(ATTACKER, old, server_round=ROUND - 1, nonce=nonce(ATTACKER, ROUND - 1))
    theirs = honest_payload("0")
    n_square = keys().public.n_square

    def again(numbers: Sequence[int], label: str, round_number: int) -> bytes:
        """The same plaintexts under fresh randomness: nobody but the key's owner could tell."""
        fresh = [int(c * randomiser(f"{label} {i}", keys().public) % n_square) for i, c in enumerate(numbers)]
        return dump_update(header(round=round_number), blobs(fresh))

    def sent(
        name: str,
        about: str,
        error: str,
        payload: bytes,
        words: UpdateStatement,
        signer: str = ATTACKER,
        client: str = ATTACKER,
        after: tuple[str, ...] = (),
    ) -> HostileUpdate:
        data = words.to_bytes()
        proof = identity(signer).sign(data)
        return HostileUpdate(f"replay-{name}", about, error, npy(payload), data, proof, client, after)

    mine, their_words = statement(ATTACKER, honest_payload(ATTACKER)), statement("0", theirs)
    fresh_old = again(encrypt(ATTACKER, label="round 2"), "again", ROUND - 1)
    fresh_theirs = again(encrypt("0"), "theirs again", ROUND)
    yield sent("earlier", "this client's honest update of the round before", "StaleRoundError", old, old_words)
    yield sent(
        "earlier-new-statement",
        "the update of the round before, under a new statement",
        "HeaderMismatchError",
        old,
        statement(ATTACKER, old),
    )
    yield sent(
        "earlier-new-round",
        "the update of the round before, its statement of this round and the old nonce",
        "WrongNonceError",
        old,
        statement(ATTACKER, old, nonce=nonce(ATTACKER, ROUND - 1)),
    )
    yield sent("rerandomised", "last round's update under fresh randomness", "StaleRoundError", fresh_old, old_words)
    yield sent(
        "rerandomised-in-round",
        "this round's update under fresh randomness, with the statement of the first",
        "WrongPayloadError",
        again(encrypt(ATTACKER), "in round", ROUND),
        mine,
    )
    yield sent(
        "earlier-run",
        "an honest update of another run in the same round",
        "WrongRunError",
        honest_payload(ATTACKER),
        dataclasses.replace(mine, run_id="run-before"),
    )
    yield sent("of-another", "another client's update and statement", "WrongClientError", theirs, their_words, "0")
    yield sent(
        "of-another-rerandomised",
        "another client's update under fresh randomness, with its statement",
        "WrongClientError",
        fresh_theirs,
        their_words,
        "0",
    )
    yield sent(
        "of-another-mixed", "another client's update with one's own statement", "WrongPayloadError", theirs, mine
    )
    yield sent(
        "twice", "the same honest update a second time", "DuplicateUpdateError", theirs, their_words, "0", "0", ("0",)
    )
    yield sent(
        "twice-rerandomised",
        "a second update of one client, newly encrypted and newly signed",
        "DuplicateUpdateError",
        fresh_theirs,
        statement("0", fresh_theirs),
        "0",
        "0",
        ("0",),
    )
    yield sent(
        "one-too-many",
        "an honest update beyond the contributors that a slot has room for",
        "ContributorLimitError",
        honest_payload(ATTACKER),
        mine,
        after=HONEST,
    )
    for name, about, error, who in (
        ("foreign", "an honest update of a client that was never enrolled", "NotEnrolledError", FOREIGN),
        ("revoked", "an honest update of a revoked client", "RevokedClientError", REVOKED),
        ("unasked", "an honest update of a client that was not asked", "WrongClientError", "7"),
    ):
        payload = dump_update(header(), blobs(encrypt(who)))
        yield sent(name, about, error, payload, statement(who, payload), who, who)
