"""Whole federations under `he_scheme: kahe`, without a network: the very models that Paillier gives."""

import contextlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from client.private_sum import PlainPart
from orchestrator.keys import new_key
from shared.config import Config
from shared.errors import EncodingError
from shared.he.kahe import KahePrivate
from shared.he.scheme import no_progress
from shared.he_utils import make_keys
from shared.masking import EVALUATION, WEIGHTS
from shared.task import Task
from tests.federations import make_tenants, open_in_memory

SMALL: dict[str, Any] = {
    "num_features": 4, "num_hidden_units": (3,), "num_samples_per_client": 60, "local_epochs": 1, "num_rounds": 3,
    "he_key_length": 512, "allow_insecure_key": True, "server_momentum": 0.5,
}  # fmt: skip
Model = dict[str, NDArray[np.float32]]


def final_model(config: Config, resume: str | None = None) -> tuple[Model, str, list[Any]]:
    """The model after a run up to `num_rounds`, or the rest of one; the run's name; what its rounds had in them."""
    with contextlib.closing(open_in_memory(config, make_tenants(config), resume=resume)) as run:
        run.coordinator.run()
        evaluated = [(r.contributor_ids, r.client_rows, r.client_loss) for r in run.coordinator.records]
        return dict(run.coordinator.model.named), run.folder.name, evaluated


def assert_same(found: Model, expected: Model) -> None:
    assert {name: array.tobytes() for name, array in found.items()} == {
        name: array.tobytes() for name, array in expected.items()
    }


@pytest.mark.parametrize("weighting", ["uniform", "examples"])
def test_the_model_is_that_of_paillier_to_the_last_bit(tmp_path: Path, weighting: Any) -> None:
    config = Config(**SMALL, log_dir=str(tmp_path), weighting=weighting)
    paillier, _, paillier_figures = final_model(config)
    kahe, _, kahe_figures = final_model(config.replace(he_scheme="kahe"))
    assert_same(kahe, paillier)
    assert kahe_figures == paillier_figures
    assert all(rows for _, rows, _ in kahe_figures), "each round was evaluated"


def test_a_run_goes_on_under_the_key_of_its_file(tmp_path: Path) -> None:
    file = tmp_path / "key.json"
    new_key(file, 2048, None)
    config = Config(**SMALL).replace(he_scheme="kahe", he_key_length=2048, he_key_file=str(file))
    whole, _, _ = final_model(config.replace(log_dir=str(tmp_path / "whole")))
    config = config.replace(log_dir=str(tmp_path / "parts"))
    _, name, _ = final_model(config.replace(num_rounds=2))
    resumed, again, records = final_model(config, resume=name)
    assert (again, len(records)) == (name, 3)
    assert_same(resumed, whole)


def test_the_key_has_the_same_fingerprint_whatever_the_scheme_that_uses_it(tmp_path: Path) -> None:
    file = tmp_path / "key.json"
    new_key(file, 2048, None)
    config = Config(he_key_length=2048, he_key_file=str(file))
    prints = {make_keys(config.replace(he_scheme=scheme)).public.fingerprint() for scheme in ("paillier", "kahe")}
    assert len(prints) == 1


def test_a_vector_opens_as_what_its_tenant_was_asked_for_alone() -> None:
    """The public polynomials follow from the tenant's own account of its task: no server can name others."""
    scheme = make_keys(Config(**SMALL, he_scheme="kahe"))
    assert isinstance(scheme, KahePrivate)
    task, vector = Task(WEIGHTS, "ab" * 32, scheme.public.fingerprint(), 3), np.array([0.5, -1.0])
    sent = PlainPart().encrypt(scheme.public, vector, 1, None, no_progress, task, b"")
    np.testing.assert_array_equal(scheme.decrypt_sum(sent.ciphertexts, 2, 1, task.digest()), vector)
    for other in (
        Task(EVALUATION, task.about, task.key, 3),
        Task(WEIGHTS, "cd" * 32, task.key, 3),
        Task(WEIGHTS, task.about, "00" * 32, 3),
    ):
        with pytest.raises(EncodingError, match="the task, a key or a mask is wrong"):
            scheme.decrypt_sum(sent.ciphertexts, 2, 1, other.digest())
