"""Signatures and replays that are refused although the payload is an honest one."""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

from shared.errors import Flaw
from shared.identity import STATEMENT_PREFIX, UpdateStatement, greeting_bytes, identity_name
from shared.wire import dump_update
from tests.vectors.world import (
    ATTACKER,
    EXPIRED,
    FOREIGN,
    HONEST,
    REVOKED,
    ROUND,
    SESSION,
    TASK,
    HostileUpdate,
    blobs,
    encrypt,
    header,
    honest_payload,
    identity,
    keys,
    nonce,
    npy,
    randomiser,
    sign,
    statement,
)

ORDER = 2**252 + 27742317777372353535851937790883648493  # of Ed25519's group, RFC 8032 section 5.1


def signatures() -> Iterator[HostileUpdate]:
    """An honest payload with a signature for something else, or with what is no signature."""
    payload, key = honest_payload(ATTACKER), identity(ATTACKER)
    said, name = statement(ATTACKER, payload), identity_name(ATTACKER)
    data, signature = said.to_bytes(name), sign(ATTACKER, said)
    s = int.from_bytes(signature[32:], "little")

    def of(**changes: Any) -> bytes:
        return sign(ATTACKER, replace(said, **changes))

    for case, about, sent in (
        ("round-stale", "signed for the round before", of(server_round=ROUND - 1)),
        ("round-future", "signed for the next round", of(server_round=ROUND + 1)),
        ("session", "signed for another session", of(session="another-run")),
        ("session-case", "signed for the session in capitals", of(session=SESSION.upper())),
        ("nonce-zero", "signed for a nonce of zeros", of(nonce=bytes(32))),
        ("nonce-old", "signed for this client's nonce of the round before", of(nonce=nonce(ATTACKER, ROUND - 1))),
        ("nonce-of-another", "signed for another client's nonce of this round", of(nonce=nonce("0"))),
        ("key", "signed for another public key", of(key_fingerprint=keys("other_").public.fingerprint())),
        ("task", "signed for another task", of(task_sha256="ab" * 32)),
        ("swapped", "key and task in each other's place", of(key_fingerprint=TASK, task_sha256=said.key_fingerprint)),
        ("payload", "signed for another payload", of(payload=honest_payload("0"))),
        ("client", "signed in another's name, with one's own key", key.sign(said.to_bytes(identity_name("0")))),
        ("of-another", "another client's signature of the same", identity("0").sign(data)),
        ("of-revoked", "a revoked client's signature of the same", identity(REVOKED).sign(data)),
        ("of-payload", "a signature of the payload alone", key.sign(payload)),
        ("of-greeting", "a greeting's signature", key.sign(greeting_bytes(SESSION, said.nonce, name))),
        ("unprefixed", "the same signed without the prefix", key.sign(data.removeprefix(STATEMENT_PREFIX))),
        ("next-version", "the same signed under another version's prefix", key.sign(data.replace(b"v1\0", b"v2\0", 1))),
        ("none", "no signature", None),
        ("as-text", "the signature is 'signature'", "signature"),
        ("as-true", "the signature is True", True),
        ("as-float", "the signature is 1.5", 1.5),
        ("as-number", "the signature is 7", 7),
        ("empty", "an empty signature", b""),
        ("truncated", "a signature of 63 bytes", signature[:-1]),
        ("half", "the first half of the signature", signature[:32]),
        ("long", "one byte after the signature", signature + b"\0"),
        ("zero", "a signature of zeros", bytes(64)),
        ("flipped", "one bit of the signature flipped", bytes([signature[0] ^ 1]) + signature[1:]),
        ("malleated", "the group's order added to S", signature[:32] + (s + ORDER).to_bytes(32, "little")),
        ("small-order", "R the neutral element and S zero", b"\1" + bytes(63)),
    ):
        yield HostileUpdate(f"signature-{case}", about, Flaw.SIGNATURE, npy(payload), sent)


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
        flaw: Flaw,
        payload: bytes,
        words: UpdateStatement,
        signer: str = ATTACKER,
        client: str = ATTACKER,
        after: tuple[str, ...] = (),
    ) -> HostileUpdate:
        return HostileUpdate(f"replay-{name}", about, flaw, npy(payload), sign(signer, words), client, after)

    bad = Flaw.SIGNATURE
    mine, their_words = statement(ATTACKER, honest_payload(ATTACKER)), statement("0", theirs)
    fresh_old = again(encrypt(ATTACKER, label="round 2"), "again", ROUND - 1)
    fresh_theirs = again(encrypt("0"), "theirs again", ROUND)
    yield sent("earlier", "this client's honest update of the round before", bad, old, old_words)
    yield sent(
        "earlier-new-signature",
        "the update of the round before, signed for this one",
        Flaw.HEADER,
        old,
        statement(ATTACKER, old),
    )
    yield sent(
        "earlier-new-round",
        "the update of the round before, signed for this one but the old nonce",
        bad,
        old,
        statement(ATTACKER, old, nonce=nonce(ATTACKER, ROUND - 1)),
    )
    yield sent("rerandomised", "last round's update under fresh randomness", bad, fresh_old, old_words)
    yield sent(
        "rerandomised-in-round",
        "this round's update under fresh randomness, with the signature of the first",
        bad,
        again(encrypt(ATTACKER), "in round", ROUND),
        mine,
    )
    yield sent(
        "earlier-session",
        "an honest update of another session in the same round",
        bad,
        honest_payload(ATTACKER),
        replace(mine, session="run-before"),
    )
    yield sent("of-another", "another client's update and signature", bad, theirs, their_words, "0")
    yield sent(
        "of-another-rerandomised",
        "another client's update under fresh randomness, with its signature",
        bad,
        fresh_theirs,
        their_words,
        "0",
    )
    yield sent("of-another-mixed", "another client's update with the signature of one's own", bad, theirs, mine)
    yield sent("twice", "the same honest update a second time", Flaw.REPEATED, theirs, their_words, "0", "0", ("0",))
    yield sent(
        "twice-rerandomised",
        "a second update of one client, newly encrypted and newly signed",
        Flaw.REPEATED,
        fresh_theirs,
        statement("0", fresh_theirs),
        "0",
        "0",
        ("0",),
    )
    yield sent(
        "one-too-many",
        "an honest update beyond the contributors that a slot has room for",
        Flaw.TOO_MANY,
        honest_payload(ATTACKER),
        mine,
        after=HONEST,
    )
    for name, about, flaw, who in (
        ("foreign", "an honest update of a client that was never enrolled", Flaw.NOT_ENROLLED, FOREIGN),
        ("revoked", "an honest update of a revoked client", Flaw.REVOKED, REVOKED),
        ("expired", "an honest update of a client whose enrolment has ended", Flaw.EXPIRED, EXPIRED),
        ("unasked", "an honest update of a client that was not asked", bad, "7"),
    ):
        payload = dump_update(header(), blobs(encrypt(who)))
        yield sent(name, about, flaw, payload, statement(who, payload), who, who)
