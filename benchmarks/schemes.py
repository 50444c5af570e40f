"""This project's scheme and its peers, each measured on the same vector: `measuring.Candidate`s.

The peers run as their own documentation shows. What they do one value at a time is measured on a sample of the vector
and scaled to all of it, since the whole would take hours; `how` says so.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray
from phe import paillier

from benchmarks.measuring import Figures, seconds, wait_for_randomisers
from shared.config import Config
from shared.he.fixed_point import FixedPoint
from shared.he.kahe import KahePublic
from shared.he.paillier import PaillierPublic
from shared.he.randomness import comb_for
from shared.he.scheme import Parts, Vector
from shared.he_utils import make_keys, public_scheme
from shared.wire import Header, dump_update

OURS = {"blum": "this project, blum", "kahe": "this project, kahe"}
VARIANTS: dict[str, dict[str, Any]] = {
    "blum": {},
    "kahe": {"he_scheme": "kahe"},
}
TASK = bytes(32)  # any digest: what is measured does not depend on it
PHE = "phe, one ciphertext per value"
TENSEAL = "TenSEAL CKKS"
HEU = "SecretFlow HEU ZPaillier"

CKKS_POLY_DEGREE = 8192
CKKS_COEFFICIENT_BITS = [60, 40, 60]
CKKS_SCALE_BITS = 40


def delta_like(size: int) -> Vector:
    """A vector as a client's delta is: (size,) small normal values, always the same."""
    return np.random.default_rng(7).normal(scale=0.05, size=size)


class Ours:
    """This project with its default settings; two clients' updates are added and their sum decrypted.

    Args:
        key_bits: bits of n.
        variant: one of `VARIANTS`.
        vector: (size,) values.
        online: also measure the encryption with every randomiser already made.
    """

    def __init__(self, key_bits: int, variant: str, vector: Vector, online: bool = True) -> None:
        config = Config().replace(he_key_length=key_bits, allow_insecure_key=key_bits < 2048, **VARIANTS[variant])
        self.name, self.key_bits = OURS[variant], key_bits
        self.how = (
            f"the whole vector, for {config.num_clients} contributors; encrypt: randomisers made on the spot by "
            "one core and ciphertexts turned to bytes, the comb's table built before; online: the same with "
            "randomisers made before; decrypt: on all cores"
        )
        self._vector, self._online = vector, online
        self._private = make_keys(config)
        scheme = public_scheme(config, self._private.public.public_bytes(), config.num_clients)
        paillier_part = scheme.transport if isinstance(scheme, KahePublic) else scheme
        if not isinstance(paillier_part, PaillierPublic):
            raise TypeError("the default he_scheme is not Paillier any more; this benchmark is about Paillier")
        self._public = scheme
        self._table_seconds = seconds(lambda: comb_for(paillier_part.key))
        self._header = Header(
            scheme=scheme.name, round=1, key=scheme.fingerprint(), size=len(vector), encoding=scheme.encoding_name
        )

    def measure(self) -> Figures:
        public, size = self._public, len(self._vector)
        update: list[Parts] = []
        figures = {
            "encrypt": seconds(lambda: update.append(public.to_bytes(public.encrypt(self._vector, TASK).ciphertexts)))
        }
        if self._online:
            public.prepare(size)
            wait_for_randomisers()
            figures["online"] = seconds(lambda: public.to_bytes(public.encrypt(self._vector, TASK).ciphertexts))
        a, b = public.from_bytes(*update[0]), public.from_bytes(*update[0])
        figures["sum"] = seconds(lambda: public.add(a, b))
        total = public.add(a, b)
        decrypted: list[Vector] = []
        figures["decrypt"] = seconds(lambda: decrypted.append(self._private.decrypt_sum(total, size, 2, TASK)))
        if not np.array_equal(decrypted[0], 2 * public.quantise(self._vector)):
            raise ArithmeticError("the decrypted sum is not the sum of the quantised vectors")
        return {**figures, "bytes": len(dump_update(self._header, *update[0])), "table": self._table_seconds}


class PheOnePerValue:
    """`phe` as its documentation shows it: one ciphertext a value."""

    def __init__(self, key_bits: int, vector: Vector, sample: int) -> None:
        self.name, self.key_bits = PHE, key_bits
        sample = min(sample, len(vector))
        self.how = (
            f"measured on {sample} values one by one and scaled to {len(vector):,}; integers at exponent 0; "
            "bytes: the bare ciphertexts"
        )
        self._values = _integers(vector[:sample])
        self._scale = len(vector) / sample
        self._public, self._private = paillier.generate_paillier_keypair(n_length=key_bits)

    def measure(self) -> Figures:
        encrypted: list[Any] = []
        summed: list[Any] = []
        decrypted: list[Any] = []
        encrypt = seconds(lambda: encrypted.extend([self._public.encrypt(value) for value in self._values]))
        add = seconds(lambda: summed.extend([c + c for c in encrypted]))
        decrypt = seconds(lambda: decrypted.extend([self._private.decrypt(c) for c in summed]))
        _check_sums(decrypted, self._values)
        width = (self._public.nsquare.bit_length() + 7) // 8
        total = width * len(self._values) * self._scale
        return {
            "encrypt": encrypt * self._scale,
            "sum": add * self._scale,
            "decrypt": decrypt * self._scale,
            "bytes": total,
        }


class TenSealCkks:
    """TenSEAL's CKKS: approximate, another assumption (ring LWE), vectors of 4096 values per ciphertext."""

    key_bits = 0

    def __init__(self, vector: Vector) -> None:
        import tenseal

        self.name = TENSEAL
        self.how = (
            f"the whole vector; N = {CKKS_POLY_DEGREE}, {CKKS_COEFFICIENT_BITS} bits, scale 2**{CKKS_SCALE_BITS}, "
            "public context; encrypt: with serialisation; approximate"
        )
        self._vector = vector
        self._tenseal = tenseal
        private = tenseal.context(tenseal.SCHEME_TYPE.CKKS, CKKS_POLY_DEGREE, coeff_mod_bit_sizes=CKKS_COEFFICIENT_BITS)
        private.global_scale = 2**CKKS_SCALE_BITS
        self._secret_key = private.secret_key()
        self._public = private.copy()
        self._public.make_context_public()

    def measure(self) -> Figures:
        slots = CKKS_POLY_DEGREE // 2
        parts = [self._vector[i : i + slots] for i in range(0, len(self._vector), slots)]
        blobs: list[bytes] = []
        summed: list[Any] = []
        decrypted: list[Any] = []
        encrypt = seconds(
            lambda: blobs.extend([self._tenseal.ckks_vector(self._public, part).serialize() for part in parts])
        )
        received = [self._tenseal.ckks_vector_from(self._public, blob) for blob in blobs]
        add = seconds(lambda: summed.extend([c + c for c in received]))
        decrypt = seconds(lambda: decrypted.extend([c.decrypt(self._secret_key) for c in summed]))
        if not np.allclose(np.concatenate(decrypted), 2 * self._vector, atol=1e-3):
            raise ArithmeticError("TenSEAL's decrypted sum is not the sum")
        return {"encrypt": encrypt, "sum": add, "decrypt": decrypt, "bytes": sum(map(len, blobs))}


class HeuZPaillier:
    """SecretFlow HEU's ZPaillier through its NumPy interface, one ciphertext a value."""

    def __init__(self, key_bits: int, vector: Vector, sample: int) -> None:
        from heu import numpy as heu_numpy
        from heu import phe as heu_phe

        self.name, self.key_bits = HEU, key_bits
        sample = min(sample, len(vector))
        self.how = (
            f"one vectorised call on {sample} int64 values, scaled to {len(vector):,}; one ciphertext per value; "
            "encrypt: with serialisation; its own threads"
        )
        self._values = np.array(_integers(vector[:sample]), dtype=np.int64)
        self._scale = len(vector) / sample
        self._kit = heu_numpy.setup(heu_phe.SchemaType.ZPaillier, key_bits)

    def measure(self) -> Figures:
        kit = self._kit
        encryptor, evaluator, decryptor = kit.encryptor(), kit.evaluator(), kit.decryptor()
        kept: dict[str, Any] = {}

        def encrypt() -> None:
            kept["encrypted"] = encryptor.encrypt(kit.array(self._values))
            kept["bytes"] = kept["encrypted"].serialize()

        def add() -> None:
            kept["sum"] = evaluator.add(kept["encrypted"], kept["encrypted"])

        def decrypt() -> None:
            kept["values"] = decryptor.decrypt(kept["sum"]).to_numpy()

        figures = {"encrypt": seconds(encrypt), "sum": seconds(add), "decrypt": seconds(decrypt)}
        _check_sums(np.ravel(kept["values"]).tolist(), self._values.tolist())
        return {operation: value * self._scale for operation, value in {**figures, "bytes": len(kept["bytes"])}.items()}


def _integers(vector: Vector) -> list[int]:
    """What this project encrypts, too: fixed-point integers with the default number of fractional bits."""
    config = Config()
    integers: NDArray[np.int64] = FixedPoint(config.he_precision_bits, config.he_integer_bits).encode(vector)[0]
    return [int(i) for i in integers]


def _check_sums(sums: list[Any], values: list[int]) -> None:
    if [int(s) for s in sums] != [2 * value for value in values]:
        raise ArithmeticError("a peer's decrypted sum is not the sum; its timings would mean nothing")
