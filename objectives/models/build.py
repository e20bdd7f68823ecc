"""From a configuration to a model."""

from __future__ import annotations

import inspect
import math

import torch
from torch import nn

from objectives.config import TrainingConfig, near
from objectives.datasets.prepare import Columns, Scaling, Whole
from objectives.errors import ConfigError, ModelError
from objectives.imports import is_import_path, load_callable, located
from objectives.models import text, transfer
from objectives.models.cnn import cnn
from objectives.models.layers import Embedded, initialise
from objectives.models.mlp import linear, mlp
from objectives.models.size import answer


def build(
    config: TrainingConfig, sample_shape: tuple[int, ...], outputs: int, inputs: Scaling | None = None
) -> nn.Module:
    """Build the model that `config` describes, on the CPU, from torch's global random state.

    A model of the user's own is called with `model_args`, and with `sample_shape` (of one input), `outputs`
    and `vocabulary` (how many words there are) where it accepts them. `inputs` is what was learnt of them.

    Raises:
        ConfigError: no model has that name, or the user's own cannot be built.
        ModelError: the model does not fit inputs of `sample_shape`.
    """
    words = inputs.words if isinstance(inputs, Whole) else ()
    if is_import_path(config.model):
        return _initialised(_own(config, sample_shape, outputs, len(words)), config)
    if words or config.model in text.NAMES:
        if not words or config.model not in text.NAMES:
            what = "texts" if words else "no texts"
            raise ConfigError(
                f"model: {config.dataset} has {what}, and {config.model} is not for them; "
                f"{', '.join(text.NAMES)} are for texts"
            )
        return _initialised(text.TextModel(config, words, outputs), config)
    embedded = Embedded(inputs, config.embedding) if isinstance(inputs, Columns) and inputs.embed else None
    features = math.prod(sample_shape) if embedded is None else embedded.width
    model: nn.Module
    if config.model == "linear":
        model = linear(features, outputs)
    elif config.model == "mlp":
        widths = config.widths or (config.hidden,) * config.depth
        model = mlp(features, outputs, widths, config.activation, config.dropout, config.batch_norm)
    elif config.model == "cnn":
        model = _cnn(config, sample_shape, outputs)
    elif config.model in (known := transfer.names()):
        return _initialised(transfer.backbone(config, sample_shape, outputs), config)
    else:
        raise ConfigError(
            f"model: there is no model {config.model!r}; "
            + near(config.model, known, "there are")
            + f" linear, mlp, cnn, {', '.join(text.NAMES)}, torchvision's (resnet18) or module:callable"
        )
    return _initialised(model if embedded is None else nn.Sequential(embedded, model), config)


def _initialised(model: nn.Module, config: TrainingConfig) -> nn.Module:
    initialise(model, config.init, config.init_std, config.activation)
    if config.pretrained not in ("none", "hub"):
        transfer.load_weights(model, config.pretrained)
    return model


def _cnn(config: TrainingConfig, sample_shape: tuple[int, ...], outputs: int) -> nn.Module:
    if len(sample_shape) != 3:
        raise ModelError(
            f"a cnn needs images; {config.dataset} has {sample_shape[0]} features: use model: mlp"
        )
    channels, height, width = sample_shape
    first = config.channels
    blocks = first if isinstance(first, tuple) else tuple(first * 2**i for i in range(config.blocks))
    return cnn(
        (channels, height, width),
        outputs,
        blocks,
        config.hidden,
        config.kernel_size,
        config.activation,
        config.dropout,
        config.batch_norm,
        config.pooling,
    )


def _own(config: TrainingConfig, sample_shape: tuple[int, ...], outputs: int, vocabulary: int) -> nn.Module:
    make = load_callable(config.model, "model")
    arguments = located(make, config.model_args)
    accepted = inspect.signature(make).parameters
    given = {"sample_shape": sample_shape, "outputs": outputs, "vocabulary": vocabulary}
    for name, value in given.items():
        if name in accepted:
            arguments.setdefault(name, value)
    try:
        model = make(**arguments)
    except TypeError as error:
        raise ConfigError(f"model: {config.model} cannot be called with {arguments}: {error}") from error
    if not isinstance(model, nn.Module):
        raise ConfigError(f"model: {config.model} returned {type(model).__name__}, not a torch.nn.Module")
    return model


def takes_channels_last(model: nn.Module, sample_shape: tuple[int, ...], device: torch.device) -> bool:
    """Whether `model`, laid out so, takes images whose channels come last in memory."""
    images = torch.zeros(2, *sample_shape, device=device).to(memory_format=torch.channels_last)
    try:
        answer(model, images)
    except RuntimeError:
        return False
    return True


def probe(
    model: nn.Module, sample_shape: tuple[int, ...], outputs: int, dtype: torch.dtype = torch.float32
) -> None:
    """Run `model` (on the CPU) once on two samples of zeros, so that a wrong shape is found before training.

    Raises:
        ModelError: it raises, or its output is not [2, outputs].
    """
    try:
        result = answer(model, torch.zeros(2, *sample_shape, dtype=dtype))
    except (RuntimeError, AssertionError) as error:
        whole = " of whole numbers (numbers to calculate with must be float)" if dtype == torch.int64 else ""
        raise ModelError(
            f"the model cannot take inputs of shape {list(sample_shape)}{whole}: {error}"
        ) from error
    if result.shape != (2, outputs):
        raise ModelError(
            f"the model returns {list(result.shape[1:])} per sample; {outputs} outputs are needed"
        )
