"""Enrolment, TLS, signatures and key files through real processes, and what each refusal tells a person."""

import re
import shutil
from pathlib import Path
from typing import Any

import pytest

from orchestrator.pki import identity_settings
from tests.conftest import Start
from tests.federations import mutual_tls_settings, tls_settings
from tests.processes import Running, free_port, read_metrics, write_config

pytestmark = pytest.mark.long

SERVER, CLIENTS = "orchestrator/run_server.py", "client/run_clients.py"


@pytest.fixture(scope="module")
def pki(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("secure") / "pki"
    end = Running("orchestrator/provision.py", "--clients", "3", "--out", str(folder)).finish()
    assert end.code == 0, end.output
    end = Running(
        "orchestrator/keys.py", "new", "--key_length", "2048", "--out", str(folder / "paillier.json")
    ).finish()
    assert end.code == 0, end.output
    return folder


def secure(pki: Path, **changes: Any) -> dict[str, Any]:
    key = {"he_key_file": str(pki / "paillier.json"), "he_key_length": 2048}
    return {**tls_settings(pki), **identity_settings(pki), **key, **changes}


def fingerprint(pki: Path) -> str:
    output = Running("orchestrator/keys.py", "show", "--out", str(pki / "paillier.json")).finish().output
    match = re.search("[0-9a-f]{64}", output)
    assert match, output
    return match[0]


def test_a_run_with_everything_switched_on(start: Start, tmp_path: Path, pki: Path) -> None:
    pinned = fingerprint(pki)
    config = str(
        write_config(tmp_path, **secure(pki, pinned_key_fingerprint=["ab" * 32, pinned], **mutual_tls_settings(pki)))
    )
    server, clients = start(SERVER, "--config", config), start(CLIENTS, "--config", config)
    ends = [server.finish(), clients.finish()]
    assert [e.code for e in ends] == [0, 0], ends[0].output + ends[1].output
    assert [r["contributors"] for r in read_metrics(tmp_path)] == [3, 3]
    assert "TLS on, each client with a certificate" in ends[0].output
    assert "anyone who reaches" not in ends[0].output
    assert pinned[:16] in ends[0].output, "the log names the key as keys.py does"
    secret = (pki / "paillier.json").read_text()
    digits = re.findall(r'"[pq]": "([0-9a-f]+)"', secret)
    assert len(digits) == 2
    for path in (tmp_path / "logs").rglob("*"):
        if path.is_file():
            assert not any(d[:40].encode() in path.read_bytes() for d in digits), f"{path} holds the private key"


def test_a_stranger_a_revoked_client_and_an_unsigned_one_are_refused_and_the_run_goes_on(
    start: Start, tmp_path: Path, pki: Path
) -> None:
    folder = tmp_path / "pki"
    shutil.copytree(pki, folder)
    assert Running("orchestrator/provision.py", "--add", "3", "--out", str(folder)).finish().code == 0
    assert Running("orchestrator/provision.py", "--revoke", "client-3", "--out", str(folder)).finish().code == 0
    shutil.copy(pki / "clients" / "client-0.key", folder / "clients" / "client-4.key")  # another's identity
    common = {"num_clients": 6, "min_available_clients": 3, "server_wait_timeout": 2.0, "client_wait_timeout": 600.0}
    address = f"127.0.0.1:{free_port()}"
    config = write_config(tmp_path, **secure(folder, server_address=address, **common))
    (tmp_path / "unsigned").mkdir()
    unsigned = write_config(
        tmp_path / "unsigned",
        **secure(folder, server_address=address, **common, client_identity="", secure_aggregation="none"),
    )
    server = start(SERVER, "--config", str(config))
    server.wait_for_line("waiting for clients")
    refused = {
        "3": (str(config), "is revoked"),
        "4": (str(config), "not signed by the enrolled key of client 'client-4'"),
        "5": (str(unsigned), "sent no signature; set client_identity"),
    }
    strangers = {i: start(CLIENTS, "--config", path, "--client_ids", i) for i, (path, _) in refused.items()}
    for client_id, stranger in strangers.items():
        end = stranger.finish()
        assert end.code == 1
        assert refused[client_id][1] in end.output, end.output
    clients = start(CLIENTS, "--config", str(config), "--client_ids", "0,1,2")
    assert [server.finish().code, clients.finish().code] == [0, 0]
    assert [r["contributor_ids"] for r in read_metrics(tmp_path)] == [["0", "1", "2"]] * 2


def test_clients_refuse_a_key_other_than_the_pinned_one(start: Start, tmp_path: Path, pki: Path) -> None:
    config = str(write_config(tmp_path, num_rounds=1, **secure(pki, pinned_key_fingerprint="ab" * 32)))
    server, clients = start(SERVER, "--config", config), start(CLIENTS, "--config", config)
    end = server.finish()
    assert end.code == 1  # clients that send nothing under this key don't send the statistics of their features either
    assert "the features' quantiles could not be added up in 3 attempts" in end.output
    assert "KeyMaterialError: the public key is not the one that it accepts" in end.output
    clients.wait_for_line("this client insists on abab")  # a masked client's own words stay in its own log
    clients.kill()


@pytest.mark.parametrize(
    ("client_side", "words"),
    [
        ({"tls_ca": "OTHER"}, "is not signed by the CA in"),
        ({"server_address": "localhost.localdomain"}, "the server's certificate is not for"),
        ({"tls_ca": "", "tls_certificate": "", "tls_key": ""}, "speaks TLS and this client does not; set tls_ca"),
    ],
    ids=["other CA", "wrong name", "clear text"],
)
def test_a_client_that_does_not_agree_on_tls_is_told_what_to_do(
    start: Start, tmp_path: Path, pki: Path, client_side: dict[str, str], words: str
) -> None:
    changes = dict(client_side)
    if changes.get("tls_ca") == "OTHER":
        other = tmp_path / "other"
        assert Running("orchestrator/provision.py", "--clients", "1", "--out", str(other)).finish().code == 0
        changes["tls_ca"] = str(other / "ca.pem")
    port = free_port()
    if "server_address" in changes:  # a loopback address that the certificate does not list
        changes["server_address"] = f"127.0.0.2:{port}"
    (tmp_path / "client").mkdir()
    listen = "0.0.0.0" if "server_address" in changes else "127.0.0.1"
    config = write_config(tmp_path, **secure(pki, server_address=f"{listen}:{port}", client_wait_timeout=60.0))
    theirs = write_config(tmp_path / "client", **{**secure(pki, server_address=f"127.0.0.1:{port}"), **changes})
    server = start(SERVER, "--config", str(config))
    server.wait_for_line("waiting for clients")
    end = start(CLIENTS, "--config", str(theirs), "--client_ids", "0").finish()
    assert end.code == 1
    assert words in end.output
    assert "Traceback" not in end.output


def test_a_tls_client_of_a_server_in_clear_text_is_told_so(start: Start, tmp_path: Path, pki: Path) -> None:
    port = free_port()
    (tmp_path / "client").mkdir()
    server = start(SERVER, "--config", str(write_config(tmp_path, server_address=f"127.0.0.1:{port}")))
    server.wait_for_line("waiting for clients")
    theirs = write_config(tmp_path / "client", **secure(pki, server_address=f"127.0.0.1:{port}"))
    end = start(CLIENTS, "--config", str(theirs), "--client_ids", "0").finish()
    assert end.code == 1
    assert "does not speak TLS" in end.output


def test_the_server_does_not_listen_to_a_network_without_tls(start: Start, tmp_path: Path) -> None:
    end = start(SERVER, "--config", str(write_config(tmp_path, server_address="0.0.0.0:8080"))).finish()
    assert end.code == 2
    assert "other machines can reach it, and TLS is off" in end.output


def test_a_key_file_that_others_can_read_is_refused(start: Start, tmp_path: Path, pki: Path) -> None:
    folder = tmp_path / "pki"
    shutil.copytree(pki, folder)
    (folder / "paillier.json").chmod(0o644)
    end = start(SERVER, "--config", str(write_config(tmp_path, **secure(folder)))).finish()
    assert end.code == 1
    assert "chmod" in end.output


def test_a_run_with_keys_made_at_home_under_passphrases_and_with_a_policy(
    start: Start, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By the commands that operating.md gives, each in a process of its own."""

    def done(script: str, *arguments: str) -> str:
        end = Running(script, *arguments).finish()
        assert end.code == 0, end.output
        return end.output

    monkeypatch.setenv("TENANT_KEY_PASSPHRASE", "correct horse battery staple")
    folder, homes = tmp_path / "pki", tmp_path / "homes"
    made = done("orchestrator/provision.py", "--clients", "0", "--out", str(folder))
    done("orchestrator/keys.py", "new", "--key_length", "2048", "--out", str(folder / "paillier.json"))
    signer = re.search("signer +([0-9a-f]{64})", made)
    assert signer, made
    for number in ("0", "1", "2"):
        common = ("--client_id", number, "--enrolled", str(folder / "enrolled.json"), "--out", str(homes))
        told = re.search("^  ([0-9a-f]{64})$", done("client/enrol.py", "new", *common), re.M)
        assert told
        request = str(homes / f"client-{number}.request.json")
        done("orchestrator/provision.py", "--sign", request, "--out", str(folder), "--fingerprint", told[1])
    policy = tmp_path / "policy.yaml"
    policy.write_text("masked_required: true\nleast_cohort: 3\nprivacy_budget: 100\n")
    policy.chmod(0o600)
    identity = str(homes / "client-{client_id}.key")
    settings = secure(folder, client_identity=identity, roster_signer=signer[1], audit=True, tenant_policy=str(policy))
    config = str(write_config(tmp_path, **settings))
    looked = done("orchestrator/doctor.py", "--config", config)
    assert "roster 4, 3 tenants may take part" in looked
    server, clients = start(SERVER, "--config", config), start(CLIENTS, "--config", config)
    ends = [server.finish(), clients.finish()]
    assert [e.code for e in ends] == [0, 0], ends[0].output + ends[1].output
    assert [r["contributors"] for r in read_metrics(tmp_path)] == [3, 3]
    told_by = re.findall("fingerprint ([0-9a-f]{64})", ends[0].output + ends[1].output)
    assert len(told_by) >= 4
    assert len(set(told_by)) == 1, "server and tenants show one roster"
