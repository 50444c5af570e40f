"""Key agreement and key derivation: X25519 (RFC 7748), HKDF-SHA256 (RFC 5869), ChaCha20-Poly1305 (RFC 8439).

Every key is derived under the round's context and the ids of the clients that it belongs to, so that no two rounds,
buckets, pairs or purposes share one. In particular no mask stream is ever used for two vectors.
"""

import hashlib

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from shared.masking.errors import BrokenRuleError, Rule
from shared.masking.shamir import PRIME, SHARE_BYTES

KEY_BYTES = 32
BOX_BYTES = 2 * SHARE_BYTES + 16  # two shares and the Poly1305 tag
_NO_NONCE = bytes(12)  # a box key seals one box, so its nonce may be zero


def exchange(private_key: X25519PrivateKey, public_key: bytes) -> bytes:
    """The 32-byte X25519 shared secret.

    Raises:
        BrokenRuleError of WEAK_KEY: the public key has low order (RFC 7748, section 6.1: the shared secret would be all
            zero).
    """
    try:
        return private_key.exchange(X25519PublicKey.from_public_bytes(public_key))
    except ValueError:
        raise BrokenRuleError(
            Rule.WEAK_KEY, "an advertised X25519 key has low order; expected a freshly generated key"
        ) from None


def pair_mask_key(shared_secret: bytes, context: bytes, one: str, other: str) -> bytes:
    """The 32-byte stream key that two clients have in common; the order of the two ids does not matter."""
    return _derive(shared_secret, context, "pair mask", *sorted((one, other)))


def self_mask_key(seed: bytes | bytearray, context: bytes, owner: str) -> bytes:
    """The 32-byte stream key of a client's own mask, from its seed b_i."""
    return _derive(seed, context, "self mask", owner)


def box_key(shared_secret: bytes, context: bytes, sender: str, receiver: str) -> bytes:
    """The 32-byte AEAD key for the one box that `sender` makes for `receiver`."""
    return _derive(shared_secret, context, "share box", sender, receiver)


def commit(seed: bytes | bytearray, context: bytes, owner: str) -> bytes:
    """The commitment H(b_i), 32 bytes. It hides b_i because b_i is 32 random bytes."""
    digest = hashlib.sha256(_label("commitment", owner) + context)
    digest.update(seed)
    return digest.digest()


def seal_box(key: bytes, roster_digest: bytes, seed_share: int, key_share: int) -> bytes:
    """One peer's shares of b_i and of the mask key, sealed for it: `BOX_BYTES` bytes."""
    plain = seed_share.to_bytes(SHARE_BYTES) + key_share.to_bytes(SHARE_BYTES)
    return ChaCha20Poly1305(key).encrypt(_NO_NONCE, plain, roster_digest)


def open_box(key: bytes, roster_digest: bytes, box: bytes) -> tuple[int, int] | None:
    """The shares (of b_j, of j's mask key) in a box, or `None` where it was altered, or made for another roster."""
    try:
        plain = ChaCha20Poly1305(key).decrypt(_NO_NONCE, box, roster_digest)
    except InvalidTag:
        return None
    shares = int.from_bytes(plain[:SHARE_BYTES]), int.from_bytes(plain[SHARE_BYTES:])
    return shares if max(shares) < PRIME else None


def _derive(secret: bytes | bytearray, context: bytes, purpose: str, *owners: str) -> bytes:
    return HKDF(SHA256(), KEY_BYTES, salt=context, info=_label(purpose, *owners)).derive(secret)


def _label(*parts: str) -> bytes:
    # No part holds a zero byte (ids are checked where they are read), so the parts can't run into each other.
    return b"\0".join(part.encode() for part in ("masked aggregation 1", *parts)) + b"\0"
