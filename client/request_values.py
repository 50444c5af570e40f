"""What a server asks, read with suspicion: each value must be there, and of its type and range."""

from shared.config import Config
from shared.errors import Reason, RoundRefusedError
from shared.exchange import Values
from shared.task import training_settings


def integer(config: Values, key: str) -> int:
    """A whole number from 1 to 1,000,000.

    Raises:
        RoundRefusedError: it is none.
    """
    value = config.get(key)
    if type(value) is not int or not 1 <= value <= 1_000_000:
        raise RoundRefusedError(f"the server sent {key} = {value!r:.80}; expected a whole number from 1 to 1,000,000")
    return value


def text(config: Values, key: str) -> str:
    """A text.

    Raises:
        RoundRefusedError: there is none.
    """
    value = config.get(key)
    if type(value) is not str:
        raise RoundRefusedError(f"the server sent no {key}; is it of the same version?")
    return value


def data(config: Values, key: str) -> bytes:
    """Bytes.

    Raises:
        RoundRefusedError: there are none.
    """
    value = config.get(key)
    if type(value) is not bytes:
        raise RoundRefusedError(f"the server sent no {key}; is it of the same version?")
    return value


def check_training(asked: Values, own: Config) -> None:
    """A client trains by its own settings; a round that asks for others is not its round.

    If the server's word counted, it could tell all tenants but one to train with a learning rate of 1e-300, and the sum
    would be that one's update.

    Raises:
        RoundRefusedError of OTHER_SETTINGS: naming each setting that differs.
    """
    differing = [name for name, value in training_settings(own).items() if asked.get(name) != value]
    if differing:
        shown = ", ".join(f"{name} = {asked.get(name)!r:.80} (mine: {getattr(own, name)!r})" for name in differing)
        raise RoundRefusedError(
            f"the server asks for {shown}; a client trains by its own settings; agree on them: the YAML of both "
            "sides has to say the same",
            Reason.OTHER_SETTINGS,
        )
