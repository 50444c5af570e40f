"""What the audit of a round's sum costs: the orchestrator that proves it, and each tenant that checks the proof."""

import statistics
import tempfile
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from benchmarks.measuring import Passes, seconds
from client.auditing import Accepted, verify
from orchestrator.pki import identity_settings, provision
from orchestrator.run import open_run
from orchestrator.simulation import make_tenants
from orchestrator.transport import MemoryTransport
from shared.config import parse_config
from shared.data_utils import load_schema
from shared.enrolment import Enrolment
from shared.he_utils import public_scheme
from shared.masking import WEIGHTS
from shared.sum_proof import open_proof, proof_name
from shared.wire import Header, load_update, vector_encoding

FEATURES, WIDTH = 500, 198  # 99,596 parameters


@dataclass(frozen=True)
class AuditCost:
    """Medians over passes, of one masked round; all on one core but the decryption.

    Attributes:
        scheme: `he_scheme`.
        parameters: of the model.
        contributors: tenants in the sum.
        passes: times it was measured.
        upload_bytes: of one tenant's vector.
        proof_bytes: of the proof, which each tenant is sent.
        decrypt_seconds: what the orchestrator does anyway, once.
        roots_seconds: what it does in addition.
        verify_seconds: one tenant's check.
    """

    scheme: str
    parameters: int
    contributors: int
    passes: int
    upload_bytes: int
    proof_bytes: int
    decrypt_seconds: float
    roots_seconds: float
    verify_seconds: float


def audit_cost(
    scheme: str, contributors: int, passes: Passes, features: int = FEATURES, key_bits: int = 3072
) -> AuditCost:
    """Run a masked round of so many tenants, and check its proof."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        provision(folder / "pki", contributors, [])
        config = parse_config(
            {
                "num_clients": contributors, "min_available_clients": contributors, "min_fit_clients": contributors,
                "num_features": features, "num_hidden_units": WIDTH, "num_samples_per_client": 20, "local_epochs": 1,
                "num_rounds": 1, "fraction_evaluate": 0.0, "he_scheme": scheme, "he_key_length": key_bits,
                "allow_insecure_key": True, "audit": True, "log_dir": name,
                **identity_settings(folder / "pki"),
            }
        )  # fmt: skip
        tenants = make_tenants(config)
        run = open_run(config, lambda seats: MemoryTransport(seats, tenants))
        run.transport.connect()
        run.coordinator.run()
        (record,) = run.coordinator.records
        path, enrolment = run.folder.audit / proof_name(1), Enrolment.load(config.enrolled_clients)
        with open_proof(path) as (proof, contributions):
            parameters = sum(array.size for array in proof.before)
            known = public_scheme(config, proof.public_key, proof.max_contributors)
            public, layout = known, known.layout(parameters)
            header = Header(public.name, 1, public.fingerprint(), parameters, vector_encoding(public, WEIGHTS))
            product = public.from_bytes(*load_update(next(contributions).payload, header, layout))
        schema = load_schema(config)
        roots, checks = [], []
        for _ in passes:
            # Of one tenant's ciphertexts, which are as many numbers of the same size as the product.
            roots.append(seconds(partial(run.coordinator._rounds._aggregator._keys.roots, product)))
            checks.append(
                seconds(partial(verify, path, config, enrolment, Accepted(lambda _key, _most: known, schema)))
            )
        run.close()
        for tenant in tenants.values():
            tenant.close()
        return AuditCost(
            scheme, parameters, contributors, len(checks), record.upload_bytes_per_client or 0, path.stat().st_size,
            record.decrypt_seconds or 0.0, statistics.median(roots), statistics.median(checks),
        )  # fmt: skip
