"""Strangers at the port of a federation at work: a slice of `make siege`, and the twins in which they win."""

from pathlib import Path

import pytest

from benchmarks.siege import besiege

pytestmark = [pytest.mark.long, pytest.mark.timeout(600)]


@pytest.mark.parametrize("attack", ["flood", "idle", "half"])
def test_tenants_feel_nothing_of_strangers(attack: str, tmp_path: Path) -> None:
    outcome = besiege(attack, "tls", 6.0, tmp_path)
    assert outcome.held, outcome


def test_tenants_that_are_there_feel_nothing_of_streams_that_are_refused(tmp_path: Path) -> None:
    """One that comes back from the strangers' own address competes with them for its streams: in seconds where the
    machine has time, and for minutes where it has none. With client certificates it does not, see below."""
    outcome = besiege("refused", "tls", 6.0, tmp_path)
    assert outcome.went_on, outcome


def test_with_client_certificates_strangers_do_not_even_get_a_stream(tmp_path: Path) -> None:
    outcome = besiege("refused", "mtls", 6.0, tmp_path)
    assert outcome.held, outcome
    assert "refused a" not in (tmp_path / "server.log").read_text(), "they ended in the handshake"


def test_flowers_own_server_takes_all_that_a_stranger_sends(tmp_path: Path) -> None:
    outcome = besiege("flood", "open", 30.0, tmp_path, most_mb=900)
    assert not outcome.held
    assert outcome.rss_peak > outcome.rss_before + 300, outcome


def test_flowers_own_server_holds_half_a_message_of_each(tmp_path: Path) -> None:
    outcome = besiege("half", "open", 30.0, tmp_path, most_mb=700)
    assert not outcome.held
    assert outcome.rss_peak > outcome.rss_before + 200, outcome


def test_idle_sockets_end_flowers_own_server(tmp_path: Path) -> None:
    outcome = besiege("idle", "open", 30.0, tmp_path)
    assert outcome.server_ended == 1, outcome
