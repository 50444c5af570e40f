"""An enrolled list that is being copied while a run goes on: what opens on half of it is skipped, the rest counts."""

import contextlib
from pathlib import Path
from typing import Any

import pytest

from orchestrator.coordinator import Coordinator
from orchestrator.run_folder import RoundRecord
from shared.config import Config
from shared.enrolment import Enrolment
from shared.errors import EnrolmentError
from tests.federations import make_tenants, masked_settings, open_in_memory

ALL = ["0", "1", "2"]


@pytest.fixture
def config(tmp_path: Path) -> Config:
    return masked_settings(
        tmp_path, 3, num_rounds=3, num_features=4, num_hidden_units=(3,), num_samples_per_client=40, local_epochs=1
    )


def serve(config: Config, monkeypatch: pytest.MonkeyPatch, half_after: tuple[str, int]) -> list[RoundRecord]:
    """A run in memory. Half of the list is there from this step of this round on, the whole again after round 2."""
    listed = Path(config.enrolled_clients)
    whole = listed.read_bytes()

    def patch(name: str) -> None:
        original = getattr(Coordinator, name)

        def followed_by_a_copy(coordinator: Coordinator, *arguments: Any) -> Any:
            result = original(coordinator, *arguments)
            step = (name, coordinator.record.round)
            if step == half_after:
                listed.write_bytes(whole[: len(whole) // 2])
            if step == ("commit", 2):
                listed.write_bytes(whole)
            return result

        monkeypatch.setattr(Coordinator, name, followed_by_a_copy)

    patch("score")
    patch("commit")
    with contextlib.closing(open_in_memory(config, make_tenants(config))) as run:
        run.coordinator.run()
    return run.coordinator.records


def test_a_round_that_opens_on_half_a_list_is_skipped(config: Config, monkeypatch: pytest.MonkeyPatch) -> None:
    first, second, third = serve(config, monkeypatch, half_after=("commit", 1))
    assert second.skipped is not None
    assert "enrolled.json: not a list of enrolled clients" in second.skipped
    assert (second.contributors, second.loss, second.client_rows) == (0, first.loss, None), "the model stays"
    assert [(r.contributor_ids, r.failures, r.skipped) for r in (first, third)] == [(ALL, 0, None)] * 2
    assert third.loss != first.loss
    assert third.client_rows == first.client_rows


def test_an_evaluation_that_opens_on_half_a_list_is_left_out(config: Config, monkeypatch: pytest.MonkeyPatch) -> None:
    records = serve(config, monkeypatch, half_after=("score", 2))
    assert [(r.contributor_ids, r.skipped) for r in records] == [(ALL, None)] * 3
    assert [r.client_rows is None for r in records] == [False, True, False]


def test_no_part_of_a_list_is_taken_for_a_shorter_one(config: Config) -> None:
    """Else a copy would revoke whoever is not in it yet."""
    listed = Path(config.enrolled_clients)
    whole = listed.read_bytes().rstrip()
    for length in range(len(whole)):
        listed.write_bytes(whole[:length])
        with pytest.raises(EnrolmentError, match="not a list of enrolled clients"):
            Enrolment.load(listed)
