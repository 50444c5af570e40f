"""Generated records: a problem that an MLP learns and a linear model can't, shared out unevenly among clients.

The world comes from `seed` alone. Each class is a set of Gaussian clusters that lie in pairs ±c, so every class has
mean zero and no hyperplane separates one class from another (XOR is the case of two axes). A random orthonormal
matrix spreads the clusters' subspace over `num_features` features, and unit noise covers all of them.

`data_skewness` moves a client from the world's own mixture (0) towards one class (1): its class shares, the mix of
clusters within a class, and a small shift of all its features.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from shared.config import Config
from shared.data_sources.dataset import Dataset
from shared.data_sources.schema import FeatureSchema, number_column
from shared.data_sources.streams import Stream, generator

TEST_ROWS = 2000
VALIDATION_ROWS = 2000
PAIRS_PER_CLASS = 2
# In units of the noise. No two clusters are nearer than this, and on separate axes they are sqrt(2) times as far, so
# that the best possible detector is nearly, but not quite, perfect.
CLUSTER_RADIUS = 4.0
# Length of a client's shift at skewness 1, in units of the noise: felt by the model, yet far from the next cluster.
MAX_SHIFT = 1.0


@dataclass(frozen=True)
class _World:
    """What all clients have in common.

    Attributes:
        centres: cluster centres in feature space, in units of the noise, (clusters, num_features).
        classes: the class of each cluster, (clusters,).
        scale: standard deviation of each feature over the balanced mixture, (num_features,), known in closed form: no
            client needs another's rows to standardise its own.
    """

    centres: NDArray[np.float64]
    classes: NDArray[np.int64]
    scale: NDArray[np.float64]


def schema(config: Config, client_id: int | None) -> FeatureSchema:
    """`num_features` numbers without a meaning."""
    columns = (number_column(f"feature_{index}", log=False) for index in range(config.num_features))
    return FeatureSchema("synthetic", tuple(columns))


def client_rows(config: Config, client_id: int) -> Dataset:
    """`num_samples_per_client` rows of one client; they depend on `seed` and `client_id`, and on no other client."""
    world = _world(config)
    rng = generator(config.seed, Stream.CLIENT_ROWS, client_id)
    shares = _client_shares(world, config, client_id, rng)
    direction = rng.standard_normal(config.num_features)
    shift = config.data_skewness * MAX_SHIFT * direction / np.linalg.norm(direction)
    return _draw(world, shares, shift, config.num_samples_per_client, rng)


def test_rows(config: Config) -> Dataset:
    """`TEST_ROWS` rows of the world's balanced mixture, whatever the clients' skewness."""
    return _balanced_rows(config, TEST_ROWS, Stream.TEST_ROWS)


def validation_rows(config: Config) -> Dataset:
    """`VALIDATION_ROWS` other rows of the same mixture."""
    return _balanced_rows(config, VALIDATION_ROWS, Stream.VALIDATION_ROWS)


def _balanced_rows(config: Config, rows: int, stream: Stream) -> Dataset:
    world = _world(config)
    shares = np.full(len(world.classes), 1 / len(world.classes))
    return _draw(world, shares, np.zeros(config.num_features), rows, generator(config.seed, stream))


def _world(config: Config) -> _World:
    pairs = PAIRS_PER_CLASS * config.num_classes
    axes = min(pairs, config.num_features)
    pair = np.arange(pairs)
    half = np.zeros((pairs, axes))  # (pairs, axes)
    # With fewer features than pairs, the pairs of one axis lie one behind the other.
    half[pair, pair % axes] = CLUSTER_RADIUS * (1 + pair // axes)
    mixing, _ = np.linalg.qr(generator(config.seed, Stream.WORLD).standard_normal((config.num_features, axes)))
    centres = np.concatenate([half, -half]) @ mixing.T  # (2 * pairs, num_features)
    scale = np.sqrt(np.mean(centres**2, axis=0) + 1.0)
    return _World(centres, np.tile(pair % config.num_classes, 2), scale)


def _client_shares(world: _World, config: Config, client_id: int, rng: np.random.Generator) -> NDArray[np.float64]:
    """The probability of each cluster at one client, (clusters,)."""
    skew = config.data_skewness
    class_shares = np.full(config.num_classes, (1 - skew) / config.num_classes)
    class_shares[client_id % config.num_classes] += skew
    shares = np.empty(len(world.classes))
    for label in range(config.num_classes):
        clusters = world.classes == label
        size = int(clusters.sum())
        mix = (1 - skew) / size + skew * rng.dirichlet(np.ones(size))
        shares[clusters] = class_shares[label] * mix
    shares /= shares.sum()
    return shares


def _draw(
    world: _World, shares: NDArray[np.float64], shift: NDArray[np.float64], rows: int, rng: np.random.Generator
) -> Dataset:
    cluster = rng.choice(len(shares), size=rows, p=shares)
    features = rng.standard_normal((rows, world.centres.shape[1]))
    features += world.centres[cluster] + shift
    features /= world.scale
    labels = world.classes[cluster]
    num_classes = int(world.classes.max()) + 1
    return Dataset(features.astype(np.float32), labels, family_names(num_classes)[labels])


def family_names(num_classes: int) -> NDArray[np.str_]:
    """The family of each class, (num_classes,): one kind of attack per class but 0."""
    if num_classes == 2:
        return np.array(["benign", "attack"])
    return np.array(["benign", *(f"attack-{label}" for label in range(1, num_classes))])
