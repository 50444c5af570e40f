"""The messages of one round as frozen data, and each one's bytes (`shared/masking/codec.py` has the rules of form).

Nothing here decides whether a message is acceptable; that is for the two state machines. Each `parse` and `decode`
takes bytes of unknown origin and breaks `Rule.MALFORMED_MESSAGE` or `Rule.REPLAYED_MESSAGE`, nothing else.
"""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass

from shared.masking.agreement import BOX_BYTES, KEY_BYTES
from shared.masking.codec import (
    SIGNATURE_BYTES,
    Kind,
    Reader,
    Signed,
    encode_entries,
    encode_id,
    encode_ids,
    encode_number,
    header,
    parse_signed,
    read_signed,
)
from shared.masking.errors import BrokenRuleError, Rule
from shared.masking.shamir import PRIME, SHARE_BYTES

SESSION_BYTES = 16
WEIGHTS = "weights"  # the bucket of the model's deltas
EVALUATION = "evaluation"  # the bucket of the model's figures on the clients' held-out rows
MIN_COHORT = 3  # with two clients each knows the other's update from the sum
MAX_COHORT = 10_000
_DIGEST = hashlib.sha256().digest_size
MAX_CIPHERTEXTS = 2**24  # keeps every mask stream below ChaCha20's 256 GiB under one nonce


def minimum_threshold(clients: int) -> int:
    """floor(2N/3) + 1: the least t that keeps a lying server from two different reveals (CCS 2017, section 6.2)."""
    return 2 * clients // 3 + 1


def least_honest(required: int, cohort: int) -> int:
    """Of how many honest clients a sum is sure, if it opens: of `required` at least, less a third of the cohort."""
    return max(1, required - (cohort - 1) // 3)


def modulus_digest(modulus: int) -> bytes:
    """H(n): SHA-256 of the Paillier modulus, 32 bytes."""
    return hashlib.sha256(b"Paillier modulus\0" + modulus.to_bytes((modulus.bit_length() + 7) // 8)).digest()


@dataclass(frozen=True)
class RoundTerms:
    """What all parties of a round must agree on; `context` is bound into every signature and every key.

    Attributes:
        session: 16 bytes, random, one for all rounds of one training run.
        round_number: grows by at least one from round to round of a session, 0 to 2**63 - 1.
        bucket: which vector of the round this is ("weights", "evaluation", "moments", …); spelt like an id.
        modulus_digest: H(n), 32 bytes.
        threshold: t, the shares that rebuild a secret and the confirms that allow a reveal.
        n_min: the least number of clients that a sum may cover.
        ciphertexts: length of the vector of plaintexts.
        task: SHA-256 of all that decides what a client computes (`shared/task.py`), 32 bytes. Clients that were told
            different things have different terms, so no set of their masks cancels (the attack: Pasquini, Francati,
            Ateniese, "Eluding Secure Aggregation in Federated Learning via Model Inconsistency", CCS 2022).

    Raises:
        BrokenRuleError of MALFORMED_MESSAGE: a field out of range.
    """

    session: bytes
    round_number: int
    bucket: str
    modulus_digest: bytes
    threshold: int
    n_min: int
    ciphertexts: int
    task: bytes

    def __post_init__(self) -> None:
        encode_id(self.bucket)
        if (len(self.session), len(self.modulus_digest), len(self.task)) != (SESSION_BYTES, _DIGEST, _DIGEST):
            raise BrokenRuleError(
                Rule.MALFORMED_MESSAGE, f"terms: expected a session of {SESSION_BYTES} bytes and digests of {_DIGEST}"
            )
        for name, low, high in (
            ("round_number", 0, 2**63 - 1),
            ("threshold", 1, MAX_COHORT),
            ("n_min", 1, MAX_COHORT),
            ("ciphertexts", 1, MAX_CIPHERTEXTS),
        ):
            if not low <= getattr(self, name) <= high:
                raise BrokenRuleError(
                    Rule.MALFORMED_MESSAGE, f"terms: {name} {getattr(self, name)}; expected {low} to {high}"
                )

    @property
    def required(self) -> int:
        """max(t, n_min): the clients that every stage needs."""
        return max(self.threshold, self.n_min)

    def encode(self) -> bytes:
        """The announcement: what the server opens the round with."""
        return b"".join(
            (
                header(Kind.ANNOUNCEMENT),
                self.session,
                encode_number(self.round_number, 8),
                encode_id(self.bucket),
                self.modulus_digest,
                encode_number(self.threshold, 2),
                encode_number(self.n_min, 2),
                encode_number(self.ciphertexts, 4),
                self.task,
            )
        )

    @classmethod
    def decode(cls, payload: bytes) -> "RoundTerms":
        """The inverse of `encode`."""
        reader = Reader(payload, Kind.ANNOUNCEMENT)
        reader.header(Kind.ANNOUNCEMENT)
        terms = cls(
            session=reader.take(SESSION_BYTES),
            round_number=reader.number(8),
            bucket=reader.id(),
            modulus_digest=reader.take(_DIGEST),
            threshold=reader.number(2),
            n_min=reader.number(2),
            ciphertexts=reader.number(4),
            task=reader.take(_DIGEST),
        )
        reader.end()
        return terms

    def context(self) -> bytes:
        """ctx = H(session, round, bucket, H(n), t, n_min, ciphertexts, task), 32 bytes."""
        return hashlib.sha256(b"masked aggregation context\0" + self.encode()).digest()


@dataclass(frozen=True)
class Advert:
    """One client's public X25519 keys of one round, 32 bytes each."""

    message: Signed
    channel_key: bytes
    mask_key: bytes

    @classmethod
    def from_signed(cls, message: Signed) -> "Advert":
        """Take the body of an advert apart."""
        if len(message.body) != 2 * KEY_BYTES:
            raise BrokenRuleError(
                Rule.MALFORMED_MESSAGE, f"advert: a body of {len(message.body)} bytes; expected {2 * KEY_BYTES}"
            )
        return cls(message, message.body[:KEY_BYTES], message.body[KEY_BYTES:])

    @classmethod
    def parse(cls, payload: bytes, context: bytes) -> "Advert":
        """One advert on its own, as it reaches the server."""
        return cls.from_signed(parse_signed(payload, Kind.ADVERT, context))


def encode_roster(adverts: Mapping[str, Advert], context: bytes) -> bytes:
    """U1: all adverts, by ascending id."""
    payloads = b"".join(adverts[client_id].message.payload for client_id in sorted(adverts))
    return header(Kind.ROSTER, context) + encode_number(len(adverts), 2) + payloads


def parse_roster(payload: bytes, context: bytes) -> list[Advert]:
    """The adverts in the order in which they came: whether they are sorted and distinct is for the client to say."""
    reader = Reader(payload, Kind.ROSTER)
    reader.header(Kind.ROSTER, context)
    adverts = [Advert.from_signed(read_signed(reader, Kind.ADVERT, context)) for _ in range(reader.number(2))]
    reader.end()
    return adverts


@dataclass(frozen=True)
class ShareBody:
    """Stage 1, client to server: the commitment H(b_i), 32 bytes, and one sealed box per peer."""

    commitment: bytes
    boxes: Mapping[str, bytes]

    def encode(self) -> bytes:
        """The body of the signed message."""
        return self.commitment + encode_entries(self.boxes)

    @classmethod
    def decode(cls, body: bytes) -> "ShareBody":
        """The inverse of `encode`."""
        reader = Reader(body, Kind.SHARES)
        decoded = cls(reader.take(_DIGEST), reader.entries(BOX_BYTES))
        reader.end()
        return decoded


def encode_boxes(boxes: Mapping[str, bytes], context: bytes) -> bytes:
    """Stage 2, server to client: the boxes made for it, by sender; with the receiver itself the senders are U2."""
    return header(Kind.BOXES, context) + encode_entries(boxes)


def parse_boxes(payload: bytes, context: bytes) -> dict[str, bytes]:
    """The inverse of `encode_boxes`."""
    reader = Reader(payload, Kind.BOXES)
    reader.header(Kind.BOXES, context)
    boxes = reader.entries(BOX_BYTES)
    reader.end()
    return boxes


def encode_survivors(survivors: frozenset[str], context: bytes) -> bytes:
    """Stage 3, server to client: U3, whose updates arrived."""
    return header(Kind.SURVIVORS, context) + encode_ids(survivors)


def parse_survivors(payload: bytes, context: bytes) -> frozenset[str]:
    """The inverse of `encode_survivors`."""
    reader = Reader(payload, Kind.SURVIVORS)
    reader.header(Kind.SURVIVORS, context)
    survivors = frozenset(reader.ids())
    reader.end()
    return survivors


def view_digest(roster_digest: bytes, senders: frozenset[str], survivors: frozenset[str]) -> bytes:
    """The body of a confirm, 32 bytes: H(roster, U2, U3), what the client has seen of the round."""
    return hashlib.sha256(b"view\0" + roster_digest + encode_ids(senders) + encode_ids(survivors)).digest()


@dataclass(frozen=True)
class RevealRequest:
    """Stage 4, server to client: which shares it asks for, and who has confirmed the same view.

    Attributes:
        seeds: the clients whose b_j is to be rebuilt; U3.
        keys: the clients whose mask key is to be rebuilt; U2 without U3.
        signatures: the 64-byte signatures of the confirms, by client.
    """

    seeds: frozenset[str]
    keys: frozenset[str]
    signatures: Mapping[str, bytes]

    def encode(self, context: bytes) -> bytes:
        """The whole message."""
        parts = encode_ids(self.seeds), encode_ids(self.keys), encode_entries(self.signatures)
        return header(Kind.REVEAL_REQUEST, context) + b"".join(parts)

    @classmethod
    def parse(cls, payload: bytes, context: bytes) -> "RevealRequest":
        """The inverse of `encode`."""
        reader = Reader(payload, Kind.REVEAL_REQUEST)
        reader.header(Kind.REVEAL_REQUEST, context)
        request = cls(frozenset(reader.ids()), frozenset(reader.ids()), reader.entries(SIGNATURE_BYTES))
        reader.end()
        return request


@dataclass(frozen=True)
class RevealBody:
    """Stage 4, client to server: its shares of b_j (`seeds`) and of j's mask key (`keys`), integers below PRIME.

    A peer whose box did not open is in neither.
    """

    seeds: Mapping[str, int]
    keys: Mapping[str, int]

    def encode(self) -> bytes:
        """The body of the signed message."""
        return b"".join(
            encode_entries({peer: share.to_bytes(SHARE_BYTES) for peer, share in shares.items()})
            for shares in (self.seeds, self.keys)
        )

    @classmethod
    def decode(cls, body: bytes) -> "RevealBody":
        """The inverse of `encode`."""
        reader = Reader(body, Kind.REVEAL)
        seeds, keys = (
            {peer: int.from_bytes(share) for peer, share in reader.entries(SHARE_BYTES).items()} for _ in range(2)
        )
        reader.end()
        if any(share >= PRIME for share in (*seeds.values(), *keys.values())):
            raise BrokenRuleError(Rule.MALFORMED_MESSAGE, "reveal: a share outside the field")
        return cls(seeds, keys)
