"""A model class of a person's own: made, and tried once, so that what can't work is refused before the first round.

The protocol: a subclass of `torch.nn.Module` that is made with `(num_features, num_classes)` and maps float32 features
(B, num_features) to float32 logits (B, num_classes). Each tensor of its `state_dict` is float32, since all of it is
averaged between tenants.
"""

import torch
from torch import Tensor, nn

from shared.errors import ConfigError
from shared.plugins import import_own

_ROWS = 3  # of the batch that a new model is tried on


def make_own_model(name: str, num_features: int, num_classes: int) -> nn.Module:
    """A new model of the class `package.module:Class`, with initial weights from torch's generator.

    Raises:
        ConfigError: the class is not there, or does not follow the protocol above.
    """
    module, class_name = import_own("model", name), name.partition(":")[2]
    found = getattr(module, class_name, None)
    if not (isinstance(found, type) and issubclass(found, nn.Module)):
        what = "nothing of that name" if found is None else f"{class_name} is a {type(found).__name__}"
        if isinstance(found, type):
            what = f"{class_name} is a class of another kind"
        raise ConfigError(f"model = {name!r}: {what} in {module.__name__}; expected a subclass of torch.nn.Module")
    try:
        model = found(num_features, num_classes)
    except Exception as error:  # a person's own code may raise anything
        raise ConfigError(
            f"model = {name!r}: {class_name}({num_features}, {num_classes}) failed ({type(error).__name__}: {error}); "
            "expected a class that is made with (num_features, num_classes)"
        ) from error
    _check_logits(name, model, num_features, num_classes)
    _check_state(name, model)
    return model.train()


def _check_logits(name: str, model: nn.Module, num_features: int, num_classes: int) -> None:
    expected = f"expected float32 logits ({_ROWS}, {num_classes}) for features ({_ROWS}, {num_features})"
    try:
        with torch.no_grad():
            logits = model.eval()(torch.zeros(_ROWS, num_features))
    except Exception as error:  # as above
        raise ConfigError(
            f"model = {name!r}: its forward failed ({type(error).__name__}: {error}); {expected}"
        ) from error
    if not isinstance(logits, Tensor):
        raise ConfigError(f"model = {name!r}: its forward gave a {type(logits).__name__}; {expected}")
    if logits.shape != (_ROWS, num_classes) or logits.dtype != torch.float32:
        raise ConfigError(
            f"model = {name!r}: its forward gave {_type(logits)} {tuple(logits.shape)}; {expected}: end with a layer "
            "of num_classes outputs"
        )


def _check_state(name: str, model: nn.Module) -> None:
    state = model.state_dict()
    if not state:
        raise ConfigError(f"model = {name!r}: its state_dict is empty; expected parameters to train")
    for key, tensor in state.items():
        if not isinstance(tensor, Tensor) or tensor.dtype != torch.float32:
            raise ConfigError(
                f"model = {name!r}: {key} in its state_dict is {_type(tensor)}; expected float32 alone, since all of "
                "it is averaged: for BatchNorm take LayerNorm or GroupNorm, convert with .float(), and leave out what "
                "is not learned by register_buffer(..., persistent=False)"
            )
        if "/" in key:
            raise ConfigError(
                f"model = {name!r}: a tensor of its state_dict is called {key!r}; expected no slash, by which a "
                "checkpoint tells its own tensors: rename that part of the model"
            )


def _type(value: object) -> str:
    return str(value.dtype).removeprefix("torch.") if isinstance(value, Tensor) else type(value).__name__
