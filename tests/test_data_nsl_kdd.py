"""NSL-KDD: what a record becomes, and what each kind of damage is called. The real files are used where they are."""

import os
import threading
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from shared.config import Config
from shared.data_sources import nsl_kdd
from shared.data_sources.nsl_kdd_schema import (
    COLUMNS,
    FAMILY_OF,
    FLAGS,
    HEAVY_TAILED,
    NUM_FEATURES,
    NUMERIC,
    PROTOCOLS,
    SERVICES,
)
from shared.data_utils import load_client_data, load_test_data, load_validation_data
from shared.errors import DataError

REAL = Path(os.environ.get("THREAT_DATA", Path(__file__).parents[2] / "shared" / "data")) / "nsl-kdd"
needs_real_files = pytest.mark.skipif(
    not (REAL / nsl_kdd.TRAIN_FILE).is_file(),
    reason="the real NSL-KDD is not here; set THREAT_DATA to the folder that holds nsl-kdd/",
)


def settings(folder: Path, partition: Any = "even", num_clients: int = 3) -> Config:
    return Config(
        data_source="nsl_kdd",
        data_path=str(folder),
        num_features=122,
        partition=partition,
        num_clients=num_clients,
    )


def line(**values: object) -> str:
    record: dict[str, object] = dict.fromkeys(COLUMNS, 0)
    record |= {"protocol_type": "tcp", "service": "http", "flag": "SF", "attack_name": "normal", "difficulty": 20}
    return ",".join(str(value) for value in (record | values).values())


def train_lines() -> list[str]:
    """60 records; `count` numbers them, so that each is known again by its features."""
    attacks = ("normal", "normal", "neptune", "satan", "phf", "rootkit")
    return [line(count=row, attack_name=attacks[row % 6]) for row in range(60)]


def write(folder: Path, train: list[str] | None = None, test: list[str] | None = None) -> Path:
    for name, lines in ((nsl_kdd.TRAIN_FILE, train or train_lines()), (nsl_kdd.TEST_FILE, test or train_lines()[:5])):
        (folder / name).write_text("\n".join(lines) + "\n", encoding="utf-8")
    return folder


def test_the_public_lists_have_the_published_sizes() -> None:
    assert (len(COLUMNS), len(NUMERIC), NUM_FEATURES) == (43, 38, 122)
    assert [len(set(values)) for values in (PROTOCOLS, SERVICES, FLAGS)] == [3, 70, 11]
    assert Counter(FAMILY_OF.values()) == {"benign": 1, "dos": 11, "probe": 6, "r2l": 15, "u2r": 7}
    assert set(HEAVY_TAILED) <= set(NUMERIC)


def test_symbols_become_one_hot_and_unknown_ones_of_the_test_set_all_zero(tmp_path: Path) -> None:
    seen = line(protocol_type="udp", service="whois", flag="OTH", attack_name="smurf")
    unseen = line(protocol_type="sctp", service="quic", flag="S9", attack_name="apache2")
    test = load_test_data(settings(write(tmp_path, test=[seen, unseen])))
    assert test.features.shape == (2, 122)
    assert test.features.dtype == np.float32
    assert list(np.flatnonzero(test.features[0, 38:])) == [2, 3 + 69, 3 + 70 + 0]
    assert not test.features[1, 38:].any()
    assert (list(test.labels), list(test.families)) == ([1, 1], ["dos", "dos"])
    assert test.labels.dtype == np.int64


def test_heavy_tails_are_compressed(tmp_path: Path) -> None:
    train = [line(src_bytes=10**row, urgent=int(row == 0)) for row in range(10)] * 6
    test = [line(src_bytes=10**row) for row in range(10)] + [line(urgent=10**6), line(land=0)]
    features = load_test_data(settings(write(tmp_path, train, test))).features
    steps = np.diff(features[:10, NUMERIC.index("src_bytes")])
    assert steps[2:] == pytest.approx(steps[-1], rel=0.01)
    assert features[10, NUMERIC.index("urgent")] == 10**6
    assert features[11, NUMERIC.index("land")] == 0


def test_clients_train_on_the_train_file_alone_and_share_no_record(tmp_path: Path) -> None:
    config = settings(write(tmp_path))
    column = NUMERIC.index("count")
    parts = [load_client_data(config, client) for client in range(3)]
    held = np.concatenate([rows.features[:, column] for data in parts for rows in (data.train, data.holdout)])
    withheld = load_validation_data(config).features[:, column]
    assert (len(held), len(withheld)) == (54, 6)
    assert len(np.unique(np.concatenate([held, withheld]))) == 60
    assert sum(int(rows.labels.sum()) for data in parts for rows in (data.train, data.holdout)) == 36


def test_the_validation_rows_are_the_same_for_every_seed_and_partition(tmp_path: Path) -> None:
    config = settings(write(tmp_path))
    validation = load_validation_data(config)
    other = load_validation_data(config.replace(seed=7, partition="family", num_clients=4))
    assert np.array_equal(validation.features, other.features)
    assert Counter(validation.families.tolist()) == {"benign": 2, "dos": 1, "probe": 1, "r2l": 1, "u2r": 1}


def test_a_record_s_features_depend_on_no_other_record(tmp_path: Path) -> None:
    config = settings(write(tmp_path))
    before = load_test_data(config).features
    names = [text.split(",")[-2] for text in train_lines()]
    write(tmp_path, [line(count=10**6 + row, attack_name=name) for row, name in enumerate(names)])
    assert np.array_equal(load_test_data(config).features, before)


Damage = Callable[[list[str]], None]


def replace(row: int, **values: object) -> Damage:
    return lambda lines: lines.__setitem__(row, line(**values))


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (replace(6, src_bytes="many"), r"line 7, column src_bytes: found 'many', expected a number from 0 to 1e\+12"),
        (replace(0, count=""), r"line 1, column count: found '', expected a number"),
        (replace(3, serror_rate="nan"), r"line 4, column serror_rate: found 'nan', expected a number"),
        (replace(3, hot="inf"), r"line 4, column hot: found 'inf', expected a number"),
        (replace(59, duration=-5), r"line 60, column duration: found '-5', expected a number"),
        (replace(2, difficulty="normal"), r"line 3, column difficulty: found 'normal', expected a number"),
        (replace(4, protocol_type="TCP"), r"line 5, column protocol_type: found 'TCP', expected one of 3 .*icmp, tcp"),
        (replace(4, service="gopherd"), r"line 5, column service: found 'gopherd', expected one of 70 .*IRC, X11"),
        (replace(4, flag="NA"), r"line 5, column flag: found 'NA', expected one of 11 .*OTH, REJ"),
        (replace(8, attack_name="normal."), r"line 9, column attack_name: found 'normal\.', expected an attack name"),
        (
            replace(8, attack_name='"normal"'),
            r"line 9, column attack_name: found '\"normal\"', expected an attack name",
        ),
        (
            lambda lines: lines.__setitem__(9, "0,tcp,http"),
            r"line 10: 3 columns \(column flag is missing\), expected 43",
        ),
        (
            lambda lines: lines.__setitem__(9, lines[9] + ",1"),
            r"line 10: 44 columns \(too many after diffic.*expected 43",
        ),
        (lambda lines: lines.insert(1, ""), r"line 2: 1 columns \(column protocol_type is missing\), expected 43"),
        (
            lambda lines: lines.insert(0, ",".join(COLUMNS)),
            r"line 1, column duration: found 'duration', expected a numb",
        ),
    ],
)
def test_damage_is_named_by_file_line_and_column(damage: Damage, message: str, tmp_path: Path) -> None:
    lines = train_lines()
    damage(lines)
    write(tmp_path, lines)
    with pytest.raises(DataError, match=rf"KDDTrain\+\.txt, {message}") as refusal:
        load_client_data(settings(tmp_path), 0)
    assert "University of New Brunswick" in str(refusal.value)
    assert "data_path" in str(refusal.value)
    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, r"KDDTest\+\.txt: No such file or directory; expected KDDTrain\+\.txt and KDDTest\+\.txt"),
        (b"", r"KDDTest\+\.txt: empty; expected lines of 43"),
        (b"\n\n", r"KDDTest\+\.txt: empty; expected lines of 43"),
        (b"\xff\xfe0,tcp", r"KDDTest\+\.txt: byte 0 is not UTF-8"),
        (line(attack_name="newworm").encode(), r"KDDTest\+\.txt, line 1, column attack_name: found 'newworm'"),
    ],
)
def test_a_file_that_is_no_data_is_refused(content: bytes | None, message: str, tmp_path: Path) -> None:
    path = write(tmp_path) / nsl_kdd.TEST_FILE
    path.unlink()
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(DataError, match=rf"{message}.*University of New Brunswick.*data_path"):
        load_test_data(settings(tmp_path))


def test_a_folder_in_place_of_a_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / nsl_kdd.TRAIN_FILE).mkdir()
    with pytest.raises(DataError, match=r"KDDTrain\+\.txt: can't be read: not a regular file"):
        load_client_data(settings(tmp_path), 0)


def test_windows_line_ends_and_a_missing_last_newline_are_harmless(tmp_path: Path) -> None:
    config = settings(write(tmp_path))
    expected = load_test_data(config).features
    (tmp_path / nsl_kdd.TEST_FILE).write_bytes("\r\n".join(train_lines()[:5]).encode())
    assert np.array_equal(load_test_data(config).features, expected)


def test_client_threads_parse_the_file_once_and_a_changed_file_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = settings(write(tmp_path))
    reads: list[Path] = []
    together = threading.Barrier(3)
    read_table = nsl_kdd._read_table

    def counted(path: Path) -> pd.DataFrame:
        reads.append(path)
        return read_table(path)

    def load(client: int) -> int:
        together.wait(timeout=10)
        return len(load_client_data(config, client).train)

    monkeypatch.setattr(nsl_kdd, "_read_table", counted)
    with ThreadPoolExecutor(3) as pool:
        assert list(pool.map(load, range(3))) == [16, 16, 16]
    assert len(reads) == 1
    write(tmp_path, train_lines()[:36])
    assert len(load_client_data(config, 0).train) == 10
    assert len(reads) == 2


@needs_real_files
def test_the_real_test_set() -> None:
    test = load_test_data(settings(REAL))
    assert test.features.shape == (22_544, 122)
    assert Counter(test.families.tolist()) == {"benign": 9711, "dos": 7460, "r2l": 2885, "probe": 2421, "u2r": 67}
    assert np.isfinite(test.features).all()
    assert np.abs(test.features).max() < 2000
    assert set(test.features[:, 38:].sum(axis=1)) == {3.0}


@needs_real_files
@pytest.mark.parametrize("partition", ["even", "dirichlet", "family"])
def test_real_clients_and_the_validation_set_share_the_whole_train_file(partition: str) -> None:
    families: Counter[str] = Counter(load_validation_data(settings(REAL)).families.tolist())
    assert families == {"benign": 6_734, "dos": 4_593, "probe": 1_166, "r2l": 100, "u2r": 5}
    for client in range(3):
        data = load_client_data(settings(REAL, partition), client)
        assert set(data.train.labels) == {0, 1}
        assert data.train.features.shape[1] == 122
        assert len(data.holdout) == round(0.1 * (len(data.train) + len(data.holdout)))
        families.update(data.train.families.tolist() + data.holdout.families.tolist())
    assert families == {"benign": 67_343, "dos": 45_927, "probe": 11_656, "r2l": 995, "u2r": 52}
