"""The YAML file: what is refused, and with which words."""

from pathlib import Path
from typing import Any

import pytest
import yaml
from pydantic import ValidationError

from shared.addresses import split_address
from shared.config import Config, load_config, parse_config
from shared.errors import ConfigError
from tests.processes import ROOT

ALL_FOUR = ("num_clients", "min_available_clients", "min_fit_clients", "min_contributors")


@pytest.mark.parametrize(
    ("raw", "message"),
    [
        ({5: 3}, "5: unknown key (value 3); config/config.yaml lists every key"),
        ({"num_round": 3}, "num_round: unknown key (value 3); did you mean 'num_rounds'?"),
        ({"xyzzy": 3}, "xyzzy: unknown key (value 3); config/config.yaml lists every key"),
        ({"num_rounds": "5"}, "num_rounds = '5': expected a whole number, found a text"),
        ({"num_rounds": True}, "num_rounds = True: expected a whole number, found true/false"),
        ({"num_rounds": 2.0}, "num_rounds = 2.0: expected a whole number, found a number"),
        ({"num_rounds": None}, "num_rounds = None: expected a whole number, found nothing"),
        ({"num_rounds": 0}, "num_rounds = 0: expected 1 to 100000"),
        ({"learning_rate": "1e-3"}, "found a text (YAML needs a dot and a sign in it: 1.0e-3)"),
        ({"data_skewness": float("nan")}, "data_skewness = nan: expected 0 to 1"),
        ({"learning_rate": float("inf")}, "learning_rate = inf: expected 1e-09 to 100"),
        ({"data_skewness": 1.5}, "data_skewness = 1.5: expected 0 to 1"),
        ({"num_hidden_units": [64, 0]}, "num_hidden_units = [64, 0]: expected 1 to 1e+06"),
        ({"num_hidden_units": []}, "expected a whole number or a list of them, such as 16 or [64, 32]"),
        ({"num_hidden_units": [64, True]}, "expected a whole number or a list of them"),
        (
            {"he_scheme": "pailier"},
            "he_scheme = 'pailier': expected one of paillier, kahe, none; did you mean 'paillier'?",
        ),
        ({"he_key_length": 1024}, "he_key_length = 1024: expected at least 2048 bits"),
        ({"he_key_length": 2050}, "he_key_length = 2050: expected a multiple of 16"),
        ({"secure_aggregation": "on"}, "secure_aggregation = 'on': expected one of \"\", masked, none"),
        ({"secure_aggregation": "masked"}, "secure_aggregation = 'masked': masked updates need enrolled_clients"),
        ({"client_identity": "c.key"}, "secure_aggregation = '': masked updates need enrolled_clients"),
        (
            {"enrolled_clients": "e", "he_scheme": "none"},
            "he_scheme = 'none': masked updates need paillier or kahe; set one, or",
        ),
        (
            {"enrolled_clients": "e", "num_clients": 2, "min_available_clients": 2},
            "num_clients = 2: masked updates need at least 3; set more, or set secure_aggregation: none",
        ),
        ({"min_available_clients": 4}, "min_available_clients = 4: at most num_clients, which is 3"),
        ({"min_contributors": 1}, "min_contributors = 1: expected 2 to 10000"),
        ({"min_contributors": 3}, "min_contributors = 3: at most min_fit_clients, which is 2"),
        ({"num_clients": 4, "min_fit_clients": 4}, "min_fit_clients = 4: at most min_available_clients, which is 3"),
        ({"server_address": "localhost"}, "server_address = 'localhost': expected host:port"),
        ({"server_address": "127.0.0.1:70000"}, "expected host:port with a port from 1 to 65535"),
        ({"data_source": "nsl_kdd"}, "data_path = '': data_source nsl_kdd needs the folder"),
        ({"data_source": "nsl_kdd", "data_path": "x"}, "data_source nsl_kdd has 122 features and 2 classes"),
        ({"data_source": "csv"}, "data_path = '': data_source csv needs a file or a folder"),
        ({"data_source": "csv", "data_path": "x"}, "csv_label_column = ''"),
        ({"data_source": "csv", "data_path": "{client_id}"}, "test_path = '': with {client_id} in data_path"),
        ({"data_source": "csv", "data_path": "x", "test_path": "{client_id}"}, "there is one test set"),
        ({"data_source": "csv", "data_path": "x", "num_classes": 3}, "data_source csv has 2, benign and attack"),
        ({"data_source": "cloudtrail", "data_path": "x"}, "needs a file of labels, or else a field and its patterns"),
        (
            {"data_source": "cloudtrail", "data_path": "x", "label_path": "y", "label_ignored": ("userAgent",)},
            "expected field=pattern, or several joined by ' & '",
        ),
        (
            {"data_source": "vpc_flow", "data_path": "x", "label_path": "y", "label_ignored": ("a=b",)},
            "data_source cloudtrail, audit and ocsf with its calls read it",
        ),
        (
            {"data_source": "vpc_flow", "data_path": "x", "label_path": "y", "label_field": "z", "label_patterns": "*"},
            "needs a file of labels, or else a field and its patterns",
        ),
        ({"data_source": "cloudtrail", "data_path": "x", "labels": "rules"}, "give both or none"),
        ({"data_source": "cloudtrail", "data_path": "x", "label_path": "y", "rules_path": "z"}, "--rules_path"),
        ({"labels": "rules", "rules_path": "z"}, "with data_source cloudtrail or audit alone"),
        ({"labels": "sigma"}, "labels = 'sigma': expected one of \"\", rules"),
        (
            {
                "data_source": "cloudtrail",
                "data_path": "x",
                "labels": "rules",
                "rules_path": "z",
                "label_field": "y",
                "label_patterns": "*",
            },
            "labels = 'rules': for where there are no others; leave out label_path, label_field and label_patterns",
        ),
        (
            {"data_source": "cloudtrail", "data_path": "x", "label_path": "y", "partition": "natural"},
            "partition = 'natural', partition_column = '': natural needs the name of a column",
        ),
        ({"csv_benign_values": [1.5]}, "expected a text or a list of them, such as benign or [benign, '0']"),
        ({"csv_drop_columns": True}, "expected a text or a list of them"),
        (
            {"data_path": "flows.csv"},
            "data_path = 'flows.csv': data_source synthetic makes its rows up and reads no file",
        ),
        ({"csv_label_column": "Label", "label_field": "x"}, "ocsf, or leave csv_label_column, label_field out"),
    ],
)
def test_a_setting_that_cannot_work_is_refused_in_one_line(raw: dict[Any, Any], message: str) -> None:
    with pytest.raises(ConfigError) as refusal:
        parse_config(raw)
    assert message in str(refusal.value)
    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("- 1\n- 2\n", "expected 'key: value' lines, found a list"),
        ("", "expected 'key: value' lines, found nothing"),
        ("a: [1", "not valid YAML"),
        ("num_rounds: 5\n seed: 2\n", "not valid YAML: mapping values are not allowed here, line 2, column 6"),
        ("num_rounds: 1\nnum_rounds: 2\n", "key 'num_rounds' is given twice"),
        ("seed: !!python/object/apply:os.system ['true']\n", "not valid YAML"),
    ],
)
def test_a_file_that_is_no_mapping_is_refused_in_one_line(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "c.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError, match=r"c\.yaml") as refusal:
        load_config(path)
    assert message in str(refusal.value)
    assert "\n" not in str(refusal.value)


def test_a_missing_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no such file"):
        load_config(tmp_path / "none.yaml")


def test_the_shipped_file_lists_every_key_with_its_default() -> None:
    text = (ROOT / "config/config.yaml").read_text()
    assert list(yaml.safe_load(text)) == list(Config.model_fields)
    assert load_config(ROOT / "config/config.yaml") == Config()
    for line in text.splitlines():
        assert line.startswith("#") or not line or "#" in line, f"no comment on: {line}"


@pytest.mark.parametrize("path", sorted((ROOT / "config").glob("*.yaml")), ids=lambda path: path.name)
def test_every_shipped_file_loads(path: Path) -> None:
    load_config(path)


def test_resolved_settings_read_back_equal(tmp_path: Path) -> None:
    config = parse_config({"num_hidden_units": [64, 32], "seed": 7, "learning_rate": 1})
    path = tmp_path / "resolved.yaml"
    path.write_text(config.as_yaml())
    assert load_config(path) == config


def test_a_list_of_texts_may_be_one_text_or_a_number() -> None:
    assert parse_config({"csv_benign_values": 0}).csv_benign_values == ("0",)
    assert parse_config({"csv_drop_columns": ["id", 7]}).csv_drop_columns == ("id", "7")


def test_a_config_cannot_be_changed_after_its_checks() -> None:
    with pytest.raises(ValidationError, match="frozen"):
        parse_config({}).num_rounds = 0


def test_a_changed_copy_is_checked_like_a_file() -> None:
    config = parse_config({"seed": 7})
    assert config.replace(num_rounds=9) == parse_config({"seed": 7, "num_rounds": 9})
    for changes, message in (
        ({"num_round": 9}, "num_round: unknown key (value 9); did you mean 'num_rounds'?"),
        ({"num_rounds": 0}, "num_rounds = 0: expected 1 to 100000"),
        ({"num_clients": 2}, "min_available_clients = 3: at most num_clients, which is 2"),
    ):
        with pytest.raises(ConfigError) as refusal:
            config.replace(**changes)
        assert message in str(refusal.value)


@pytest.mark.parametrize(
    ("raw", "masked", "fewest"),
    [
        ({}, False, 2),
        ({"enrolled_clients": "e"}, True, 3),
        ({"enrolled_clients": "e", "secure_aggregation": "none"}, False, 2),
        ({"enrolled_clients": "e", "secure_aggregation": "none", "he_scheme": "none"}, False, 2),
        ({"enrolled_clients": "e", "min_contributors": 3, "min_fit_clients": 3}, True, 3),
        ({"enrolled_clients": "e", **dict.fromkeys(ALL_FOUR, 4)}, True, 4),
    ],
)
def test_updates_are_masked_wherever_identities_exist(raw: dict[str, Any], masked: bool, fewest: int) -> None:
    config = parse_config(raw)
    assert (config.masked, config.fewest_contributors) == (masked, fewest)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["num_round=3"], "c.yaml --set num_round=3: num_round: unknown key (value 3); did you mean 'num_rounds'?"),
        (["seed=1", "he_scheme=pailier"], "--set he_scheme=pailier: he_scheme = 'pailier': expected one of paillier, "),
        (["num_rounds=many"], "--set num_rounds=many: num_rounds = 'many': expected a whole number, found a text"),
        (["learning_rate=1e-3"], "found a text (YAML needs a dot and a sign in it: 1.0e-3)"),
        (["num_clients=2"], "--set num_clients=2: min_available_clients = 3: at most num_clients, which is 2"),
        (["log_dir="], "--set log_dir=: log_dir = None: expected a text, found nothing"),
        (["num_rounds"], "--set num_rounds: expected key=value, and no key twice, such as --set num_rounds=3"),
        (["=3"], "--set =3: expected key=value, and no key twice"),
        (["seed=1", "seed=2"], "--set seed=2: expected key=value, and no key twice"),
        (["num_hidden_units=[1"], "--set num_hidden_units=[1: not valid YAML"),
        (["seed=!!python/object/apply:os.getpid []"], "not valid YAML"),
    ],
)
def test_an_override_is_checked_like_the_file(tmp_path: Path, overrides: list[str], message: str) -> None:
    path = tmp_path / "c.yaml"
    path.write_text("seed: 3")
    with pytest.raises(ConfigError) as refusal:
        load_config(path, overrides)
    assert message in str(refusal.value)
    assert "\n" not in str(refusal.value)


def test_an_override_stands_in_place_of_what_the_file_says(tmp_path: Path) -> None:
    path = tmp_path / "c.yaml"
    path.write_text("seed: 3\nnum_rounds: 0\nserver_momentum: 0.5")
    config = load_config(
        path, ["num_rounds=2", "num_hidden_units=[8, 4]", "server_address='[::1]:80'", 'label_path=""']
    )
    assert config == Config(
        seed=3, num_rounds=2, server_momentum=0.5, num_hidden_units=(8, 4), server_address="[::1]:80"
    )


def test_addresses() -> None:
    assert split_address("[::1]:8080") == ("::1", 8080)
    assert split_address("localhost:1") == ("localhost", 1)
