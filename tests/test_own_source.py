"""A data source of a person's own: what it gives is checked, and said in one line where it can't be learned from."""

import re
from collections.abc import Callable

import numpy as np
import pytest

from shared.config import Config
from shared.data_sources.dataset import Dataset
from shared.data_utils import load_client_data, load_schema, load_test_data, load_validation_data
from shared.errors import ConfigError, DataError
from tests.conftest import OwnCode

CONFIG = Config(data_source="own.flows", num_features=2, num_classes=3)


def flows(rows: str = "", schema: str = "", more: str = "") -> str:
    """A source that is all right but for what is said."""
    return f"""
import numpy as np
from shared.data_sources.dataset import Dataset
from shared.data_sources.schema import FeatureSchema, number_column

def schema(config, client_id):
    source, names = config.data_source, ("a", "b")
    {schema}
    return FeatureSchema(source, tuple(number_column(name, log=False) for name in names))

def rows(number):
    features = np.arange(2 * number, dtype=np.float32).reshape(number, 2)
    labels = np.arange(number, dtype=np.int64) % 3
    families = np.array(["benign", "scan", "flood"])[labels]
    {rows}
    return Dataset(features, labels, families)

def client_rows(config, client_id): return rows(10 + client_id)
def validation_rows(config): return rows(6)
def test_rows(config): return rows(9)
{more}
"""


def test_its_rows_are_what_everybody_gets(own_code: OwnCode) -> None:
    own_code("flows", flows())
    assert load_schema(CONFIG).names == ("a", "b")
    data = load_client_data(CONFIG, 2)
    assert len(data.train) + len(data.holdout) == 12
    assert (len(load_validation_data(CONFIG)), len(load_test_data(CONFIG))) == (6, 9)
    rows = load_test_data(CONFIG)
    assert np.array_equal(rows.features, np.arange(18, dtype=np.float32).reshape(9, 2))
    assert list(rows.families[:3]) == ["benign", "scan", "flood"]


@pytest.mark.parametrize(
    ("source", "message"),
    [
        (None, r"own\.flows can't be imported \(ModuleNotFoundError"),
        (flows(more="1 / 0"), r"own\.flows can't be imported \(ZeroDivisionError"),
        (
            flows(more="del client_rows, schema"),
            "no function schema, client_rows in it; expected schema, client_rows, ",
        ),
        (flows(more="test_rows = 3"), "no function test_rows in it"),
    ],
)
def test_a_module_that_is_no_source_is_refused(own_code: OwnCode, source: str | None, message: str) -> None:
    if source is not None:
        own_code("flows", source)
    with pytest.raises(ConfigError, match=f"^data_source = 'own.flows': {message}"):
        load_test_data(CONFIG)


@pytest.mark.parametrize(
    ("spoiled", "message"),
    [
        ("return features", "a ndarray; expected a Dataset of three NumPy arrays"),
        (
            "features = features.tolist()",
            "a Dataset whose features are a list; expected a Dataset of three NumPy arrays",
        ),
        (
            "features = features.astype(float)",
            r"features float64 \(9, 2\); expected float32 \(9, 2\): \(rows, num_feat",
        ),
        ("features = features[:, :1]", r"features float32 \(9, 1\); expected float32 \(9, 2\)"),
        ("features = features[1:]", r"features float32 \(8, 2\); expected float32 \(9, 2\)"),
        ("features = features.ravel()", r"features float32 \(18,\); expected float32 \(9, 2\)"),
        ("features[4, 1] = np.nan", "feature 1 of row 4 = nan; expected finite numbers of at most 1e.12"),
        ("features[0, 0] = -np.inf", "feature 0 of row 0 = -inf; expected finite"),
        ("features[2, 0] = 2e12", r"feature 0 of row 2 = [\d.e+]+; expected finite numbers of at most 1e.12"),
        ("labels = labels.astype(np.int32)", r"labels int32 \(9,\); expected int64 \(rows,\)"),
        ("labels = labels[:, None]", r"labels int64 \(9, 1\); expected int64 \(rows,\)"),
        ("labels[3] = 3", r"labels from 0 to 3; expected 0 \(benign\) to 2: num_classes = 3"),
        ("labels[3] = -1", "labels from -1 to 2; expected 0"),
        ("families = families[1:]", r"families <U6 \(8,\); expected texts \(9,\)"),
        ("families = labels", r"families int64 \(9,\); expected texts"),
        ("features, labels, families = features[:0], labels[:0], families[:0]", "of at least one row"),
    ],
)
def test_rows_that_can_not_be_learned_from_are_refused(own_code: OwnCode, spoiled: str, message: str) -> None:
    own_code("flows", flows(rows=spoiled))
    with pytest.raises(DataError, match=f"^data_source = 'own.flows': test_rows gave .*{message}"):
        load_test_data(CONFIG)
    for load, function in (
        (load_validation_data, "validation_rows"),
        (lambda config: load_client_data(config, 0), "client_rows"),
    ):
        with pytest.raises(DataError, match=f"^data_source = 'own.flows': {function} gave "):
            load(CONFIG)


@pytest.mark.parametrize(
    ("spoiled", "message"),
    [
        ("return names", "schema gave a tuple; expected a FeatureSchema"),
        ("source = 'csv'", "schema gave source 'csv'; expected source 'own.flows': pass config.data_source"),
        ("names = ('a', 'b', 'c')", "num_features = 2: this data has 3 features; set num_features: 3"),
        ("names = ('a', 'a')", "no name twice"),
        ("names = (1, 2)", r"columns = \(Column\(name=1, .*; expected a tuple of columns whose names are texts"),
        ("return FeatureSchema(source, names)", r"columns = \('a', 'b'\); expected a tuple of columns"),
        (
            "return FeatureSchema(source, (number_column(n) for n in names))",
            "columns = <generator .*; expected a tuple",
        ),
    ],
)
def test_a_schema_that_does_not_fit_is_refused(own_code: OwnCode, spoiled: str, message: str) -> None:
    own_code("flows", flows(schema=spoiled))
    for load in (load_schema, lambda config: load_client_data(config, 0).schema):
        with pytest.raises(DataError, match=message):
            load(CONFIG)


@pytest.mark.parametrize(
    ("function", "load"),
    [
        ("schema(config, client_id)", load_schema),
        ("client_rows(config, client_id)", lambda config: load_client_data(config, 0)),
        ("validation_rows(config)", load_validation_data),
        ("test_rows(config)", load_test_data),
    ],
)
@pytest.mark.parametrize(
    ("body", "message"),
    [
        ("open('/nowhere/flows.csv')", r"FileNotFoundError: .*'/nowhere/flows\.csv', line 18 of own\.flows"),
        ("return {}['bytes']", r"KeyError: 'bytes', line 18 of own\.flows"),
        ("raise SystemExit('no\\nrows')", r"SystemExit: no rows, line 18 of own\.flows"),
    ],
)
def test_a_function_that_fails_is_one_line_with_its_place(
    own_code: OwnCode, function: str, load: Callable[[Config], object], body: str, message: str
) -> None:
    source = flows().rstrip("\n") + f"\n\ndef {function}:\n    {body}\n"
    line = source[: source.index(body)].count("\n") + 1
    own_code("flows", source)
    expected = message.replace("18", str(line))
    with pytest.raises(
        DataError, match=rf"^data_source = 'own\.flows': {re.escape(function)} failed \({expected}\); expected a "
    ) as refusal:
        load(CONFIG)
    assert "\n" not in str(refusal.value)


def test_a_function_with_other_arguments_is_told_which_it_is_called_with(own_code: OwnCode) -> None:
    own_code("flows", flows(more="def client_rows(config): return rows(10)"))
    with pytest.raises(
        DataError, match=r"client_rows\(config, client_id\) failed \(TypeError: client_rows\(\) takes 1 "
    ):
        load_client_data(CONFIG, 0)


def test_an_error_of_this_project_says_what_its_author_wrote(own_code: OwnCode) -> None:
    own_code("flows", "from shared.errors import DataError\n" + flows(rows="raise DataError('the feed is away')"))
    with pytest.raises(DataError, match=r"^the feed is away$"):
        load_test_data(CONFIG)


@pytest.mark.parametrize(
    ("labels", "said"),
    [("labels[:] = 0", "NO ATTACK among 10 rows"), ("labels[:] = 2", "NOTHING BENIGN among 10 rows")],
)
def test_rows_of_one_class_are_said_in_capitals(
    own_code: OwnCode, caplog: pytest.LogCaptureFixture, labels: str, said: str
) -> None:
    own_code("flows", flows(rows=labels))
    load_client_data(CONFIG, 0)
    load_test_data(CONFIG)
    load_validation_data(CONFIG)
    for line in (f"client 0: {said}", "test set: N", "validation rows: N"):
        assert line in caplog.text


def test_the_check_passes_on_the_rows_themselves(own_code: OwnCode) -> None:
    """Label 2 of 3 classes and a feature of 1e12 are the last that are taken."""
    own_code("flows", flows(rows="features[0, 0] = 1e12"))
    rows = load_test_data(CONFIG)
    assert isinstance(rows, Dataset)
    assert (rows.features.max(), rows.labels.max()) == (np.float32(1e12), 2)
