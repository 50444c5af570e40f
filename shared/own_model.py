"""A model class of a person's own: made, and tried once, so that what can't work is refused before the first round.

The protocol: a subclass of `torch.nn.Module` that is made with `(num_features, num_classes)` and maps float32 features
(B, num_features) to float32 logits (B, num_classes). Each tensor of its `state_dict` is float32, since all of it is
averaged between tenants. In evaluation a row's logits are its own, whatever rows are beside it; in training they lead
to a gradient, for one row too.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional

from shared.errors import ConfigError
from shared.plugins import OWN_FAILURES, failure, import_own

_ALL = slice(None)


def make_own_model(name: str, num_features: int, num_classes: int) -> nn.Module:
    """A new model of the class `package.module:Class`, with initial weights from torch's generator.

    Raises:
        ConfigError: the class is not there, or does not follow the protocol above.
    """
    trial = _Trial(name, num_features, num_classes)
    generator = torch.get_rng_state()
    trial.run(trial.make())
    # A trial leaves traces, in running means for example: what is trained has never been tried.
    torch.set_rng_state(generator)
    model = trial.make()
    trial.logits(model.eval())  # layers that are made by their first input are made now
    return model.train()


def check_all_trained(name: str, model: nn.Module) -> None:
    """For `privacy: records`, whose noise is in each value of an update: what is not trained would drift by it.

    Raises:
        ConfigError: the `state_dict` holds something else than parameters that are trained, each by one name.
    """
    trained = {key for key, parameter in model.named_parameters() if parameter.requires_grad}
    if others := [key for key in model.state_dict() if key not in trained]:
        raise ConfigError(
            f"model = {name!r}: {', '.join(others[:5])} in its state_dict is not trained, or is there by another name "
            "too; expected with privacy: records parameters alone, as noise is added to all of it: leave buffers out "
            "by register_buffer(..., persistent=False), freeze and share nothing"
        )


class _Trial:
    """What a model of this class has to do in a run, done once on a few rows.

    Args:
        name: `package.module:Class`.
        num_features: width of its input.
        num_classes: width of its output.

    Raises:
        ConfigError: there is no such class.
    """

    def __init__(self, name: str, num_features: int, num_classes: int) -> None:
        self._name, self._widths = name, (num_features, num_classes)
        self._module = import_own("model", name)
        class_name = name.partition(":")[2]
        found = getattr(self._module, class_name, None)
        if not (isinstance(found, type) and issubclass(found, nn.Module)):
            what = "nothing of that name" if found is None else f"{class_name} is a {type(found).__name__}"
            if isinstance(found, type):
                what = f"{class_name} is a class of another kind"
            raise self._wrong(f"{what} in {self._module.__name__}; expected a subclass of torch.nn.Module")
        self._class = found
        # Different ones, of values that a rank and a category may both have.
        self._features = torch.tensor([0.0, 1.0, 0.5])[:, None].repeat(1, num_features)  # (3, num_features)

    def make(self) -> nn.Module:
        """A new one.

        Raises:
            ConfigError: it can't be made.
        """
        try:
            return self._class(*self._widths)
        except OWN_FAILURES as error:
            raise self._wrong(
                f"{self._class.__name__}{self._widths} failed ({failure(error, self._module)}); expected a class that "
                "is made with (num_features, num_classes)"
            ) from error

    def run(self, model: nn.Module) -> None:
        """Judge rows, and train two steps.

        Raises:
            ConfigError: that does not work, or would come to nothing.
        """
        logits = self.logits(model.eval())
        _check_state(self._name, model)
        if not all(bool(tensor.isfinite().all()) for tensor in model.state_dict().values()):
            raise self._wrong("its initial weights are not all finite; expected numbers to begin with")
        if not logits.isfinite().all():
            raise self._wrong(
                "its forward gave NaN or infinity for features between 0 and 1; expected finite logits: look for a "
                "division, a logarithm or a root"
            )
        if (logits >= 0).all() and torch.allclose(logits.sum(1), torch.ones(len(logits)), atol=1e-4):
            raise self._wrong(
                "its forward gave shares that sum to 1; expected logits, of which the loss makes such shares: leave "
                "out the softmax"
            )
        for row in range(len(logits)):
            if not torch.allclose(self.logits(model, slice(row, row + 1))[0], logits[row], rtol=1e-3, atol=1e-4):
                raise self._wrong(
                    "in evaluation the logits of a row depend on the rows beside it, or change from call to call; "
                    "expected the same ones always, or no threshold would hold: for BatchNorm take LayerNorm or "
                    "GroupNorm, and draw nothing unless self.training"
                )
        self._train(model.train())

    def _train(self, model: nn.Module) -> None:
        trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
        if not trained:
            raise self._wrong("no parameter has requires_grad; expected parameters to train")
        gradients = [torch.zeros_like(parameter) for parameter in trained]  # dense, as training has them
        for parameter, gradient in zip(trained, gradients, strict=True):
            parameter.grad = gradient
        for rows in (slice(None), slice(0, 1)):  # the last batch of an epoch may be one row
            logits = self.logits(model, rows)
            try:
                with torch.enable_grad():
                    loss = functional.cross_entropy(logits, torch.zeros(len(logits), dtype=torch.int64))
                torch.autograd.backward(loss)
            except OWN_FAILURES as error:
                raise self._wrong(
                    f"in training its loss has no gradient ({failure(error, self._module)}); expected logits that "
                    "follow from its parameters in each call anew: without detach(), torch.no_grad(), or what an "
                    "earlier call has computed"
                ) from error
        if not all(bool(gradient.isfinite().all()) for gradient in gradients):
            raise self._wrong(
                "in training its gradients are NaN or infinite for features between 0 and 1; expected finite ones: "
                "look for a division, a logarithm or a root"
            )

    def logits(self, model: nn.Module, rows: slice = _ALL) -> Tensor:
        """Of some rows, in whichever mode the model is, (rows, num_classes).

        Raises:
            ConfigError: its forward fails, or gives something else.
        """
        features = self._features[rows].clone()
        expected = f"expected float32 logits {(len(features), self._widths[1])} for features {tuple(features.shape)}"
        if len(features) == 1:
            expected += ", since a batch may be one row: for BatchNorm take LayerNorm or GroupNorm"
        when = "in training " if model.training else ""
        try:
            with torch.set_grad_enabled(model.training):
                logits = model(features)
        except OWN_FAILURES as error:
            raise self._wrong(f"{when}its forward failed ({failure(error, self._module)}); {expected}") from error
        if not isinstance(logits, Tensor):
            raise self._wrong(f"{when}its forward gave a {type(logits).__name__}; {expected}")
        if logits.shape != (len(features), self._widths[1]) or logits.dtype != torch.float32:
            raise self._wrong(
                f"{when}its forward gave {_type(logits)} {tuple(logits.shape)}; {expected}"
                f"{': end with a layer of num_classes outputs' if len(features) > 1 else ''}"
            )
        if not torch.equal(features, self._features[rows]):
            raise self._wrong(
                f"{when}its forward changed the features that it was given; expected them as they were, since they "
                "are used again: no operation in place, such as ReLU(inplace=True), on the input"
            )
        return logits

    def _wrong(self, what: str) -> ConfigError:
        return ConfigError(f"model = {self._name!r}: {what}")


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
        if isinstance(tensor, nn.UninitializedParameter | nn.UninitializedBuffer):
            raise ConfigError(
                f"model = {name!r}: {key} has no shape after a forward; expected each layer that is made by its first "
                "input to get one: use that layer in forward, or take it out"
            )
        if "/" in key:
            raise ConfigError(
                f"model = {name!r}: a tensor of its state_dict is called {key!r}; expected no slash, by which a "
                "checkpoint tells its own tensors: rename that part of the model"
            )


def _type(value: object) -> str:
    return str(value.dtype).removeprefix("torch.") if isinstance(value, Tensor) else type(value).__name__
