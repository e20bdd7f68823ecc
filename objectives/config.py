"""The settings of a training run, flat and typed, so that any of them can be a parameter of a search.

`TrainingConfig.read(mapping)` is the only way in: it refuses unknown names with the nearest right one,
collects the arguments of a user's own model or data set, and reports every problem as a `ConfigError`.
"""

from __future__ import annotations

import difflib
import inspect
from collections.abc import Collection, Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    NonNegativeInt,
    PositiveInt,
    StringConstraints,
    ValidationError,
    field_validator,
    model_validator,
)

from objectives.errors import ConfigError
from objectives.imports import is_import_path, load_callable

if TYPE_CHECKING:
    from objectives.datasets.records import Task

Preparation = Literal["none", "standardize", "minmax"]
Activation = Literal["relu", "leaky_relu", "gelu", "silu", "elu", "tanh", "sigmoid", "identity"]
Initialisation = Literal["default", "normal", "xavier", "kaiming"]
LossName = Literal["auto", "cross_entropy", "binary_cross_entropy", "hinge", "mse", "huber"]
OptimizerName = Literal["sgd", "momentum", "nesterov", "adagrad", "rmsprop", "adadelta", "adam", "adamw"]
ScheduleName = Literal[
    "constant",
    "step",
    "multistep",
    "exponential",
    "polynomial",
    "cosine",
    "cosine_restarts",
    "one_cycle",
    "plateau",
]
OwnPath = Annotated[str, StringConstraints(pattern=r"^[^:]+:[^:]+$")]  # module:callable, file.py:callable
_OWN = ("model", "dataset", "loss", "optimizer", "schedule")  # settings that may name something of the user's


class TrainingConfig(BaseModel):
    """Every setting of our training loop. Units and ranges stand with the fields."""

    model_config = ConfigDict(extra="forbid", frozen=True, protected_namespaces=())

    # ------------------------------------------------------------------------------------------ data
    dataset: str = Field(
        "digits",
        description="digits, breast_cancer, wine, diabetes (bundled); mnist, fashionmnist, kmnist, cifar10 "
        "(torchvision); image_folder; table, text (a CSV or Parquet file); "
        "or module:callable / file.py:callable that returns a Dataset",
    )
    dataset_args: dict[str, Any] = Field(
        default_factory=dict, description="keyword arguments of your own data set"
    )
    data_root: str = Field("data", description="directory of torchvision's files, or of an image folder")
    download: bool = Field(False, description="download torchvision's files where they are missing")
    file: str | None = Field(None, description="CSV or Parquet file of dataset: table or text")
    target_column: str | None = Field(None, description="what is to be predicted; of a text `label` if unset")
    text_column: str = Field("text", description="of dataset: text")
    columns: tuple[str, ...] = Field((), description="to predict from; all others if unset")
    categorical: tuple[str, ...] = Field((), description="columns of numbers that are names of categories")
    encoding: Literal["one_hot", "embedding"] = Field("one_hot", description="of categories")
    tokens: Literal["words", "characters"] = Field("words", description="what a text is cut into")
    max_length: int = Field(256, ge=1, description="words of a text that are read")
    vocabulary: int = Field(20_000, ge=1, description="words that are known: the most frequent in training")
    min_count: int = Field(1, ge=1, description="of a word in the training data, to be known")
    image_size: int | None = Field(None, ge=1, description="resize images of a folder to this many pixels")
    split: Literal["random", "time", "reshuffle"] = Field(
        "random",
        description="time: validation is later than training, the test set later than both; reshuffle: each "
        "trial, by its seed, divides what is not test data in another way",
    )
    time_column: str | None = Field(None, description="numbers or dates, of split: time")
    split_by: str | None = Field(None, description="column whose rows of one value stay in one part")
    split_seed: int = Field(0, ge=0, description="seed of the split; the same for all trials of a study")
    validation_fraction: float = Field(0.2, gt=0.0, lt=1.0, description="of what is not test data")
    test_fraction: float = Field(0.2, gt=0.0, lt=1.0, description="where the data set has no test set")
    folds: int | None = Field(
        None, ge=2, description="stratified cross-validation: a training for each, validated on that part"
    )
    train_limit: int | None = Field(None, ge=1, description="train on at most this many samples (stratified)")
    preparation: Preparation = Field("standardize", description="scaling learnt from the training data only")
    storage: Literal["auto", "memory", "loader"] = Field(
        "auto",
        description="hold the data in device memory, or read it through a DataLoader; auto: if it fits",
    )
    loader_workers: int = Field(2, ge=0, description="processes of the DataLoader, where one is used")

    # ---------------------------------------------------------------------------------- augmentation
    crop: int = Field(0, ge=0, description="random crop after padding by this many pixels")
    flip: float = Field(0.0, ge=0.0, le=1.0, description="probability of a horizontal flip")
    rotation: float = Field(0.0, ge=0.0, le=180.0, description="largest random rotation, degrees either way")
    erasing: float = Field(0.0, ge=0.0, le=1.0, description="probability of erasing a random rectangle")
    mixup: float = Field(0.0, ge=0.0, description="alpha of mixup's Beta distribution; 0 is off")

    # ----------------------------------------------------------------------------------------- model
    model: str = Field(
        "mlp",
        description="linear, mlp, cnn; one of torchvision's (resnet18); of texts bag, rnn, lstm, gru; "
        "or module:callable",
    )
    model_args: dict[str, Any] = Field(
        default_factory=dict, description="keyword arguments of your own model"
    )
    depth: int = Field(1, ge=1, le=100, description="hidden layers of an MLP")
    hidden: int = Field(64, ge=1, description="width of each hidden layer of an MLP, and of a CNN's head")
    widths: tuple[PositiveInt, ...] | None = Field(
        None, description="width of every hidden layer, instead of depth"
    )
    activation: Activation = "relu"
    dropout: float = Field(0.0, ge=0.0, lt=1.0, description="probability of dropping a hidden unit")
    batch_norm: bool = Field(False, description="batch normalisation after every hidden layer")
    init: Initialisation = Field("default", description="of weights; default is PyTorch's own")
    init_std: float = Field(0.01, gt=0.0, description="standard deviation of init: normal")
    pretrained: str = Field(
        "none", description="weights to start from, but for the head: none, hub (torchvision's), or a file"
    )
    frozen_epochs: NonNegativeInt | Literal["all"] = Field(
        0, description="epochs in which only the head, the last linear layer, is trained"
    )
    backbone_lr: float = Field(1.0, ge=0.0, description="learning rate of all but the head, as a share of lr")
    embedding: int = Field(32, ge=1, description="numbers of a word; of a category at most half their count")
    word_vectors: str | None = Field(
        None, description="text file of GloVe's or word2vec's form to start from"
    )
    freeze_embedding: bool = Field(False, description="leave word_vectors as they are")
    nearest: tuple[str, ...] = Field(
        (), description='words, or sums ("king - man + woman"), whose nearest words the evaluation tells'
    )
    blocks: int = Field(2, ge=1, le=20, description="convolution blocks of a CNN; channels double at each")
    channels: PositiveInt | tuple[PositiveInt, ...] = Field(
        16, description="channels of the first block, or of every block"
    )
    kernel_size: int = Field(3, ge=1, description="side of a convolution's kernel, pixels (odd)")
    pooling: Literal["max", "avg", "none"] = Field("max", description="halving of the image after each block")

    # ------------------------------------------------------------------------------------------ loss
    loss: LossName | OwnPath = Field(
        "auto", description="auto: cross_entropy to classify, mse for a number; or module:callable"
    )
    loss_args: dict[str, Any] = Field(default_factory=dict, description="keyword arguments of your own loss")
    label_smoothing: float = Field(0.0, ge=0.0, lt=1.0, description="of cross_entropy")
    class_weights: Literal["none", "balanced"] | tuple[float, ...] = Field(
        "none", description="balanced: inverse to the class's share of the training data"
    )
    huber_delta: float = Field(
        1.0, gt=0.0, description="where Huber's loss turns linear, in scaled target units"
    )

    # ------------------------------------------------------------------------------------- optimiser
    optimizer: OptimizerName | OwnPath = Field(
        "adam", description="one of ours, or module:class, as torch.optim:RAdam"
    )
    optimizer_args: dict[str, Any] = Field(
        default_factory=dict, description="keyword arguments of your own optimiser"
    )
    lr: float = Field(1e-3, gt=0.0, description="learning rate before the schedule's factor")
    momentum: float = Field(0.9, ge=0.0, lt=1.0, description="of momentum, nesterov and rmsprop (there 0)")
    beta1: float = Field(0.9, ge=0.0, lt=1.0, description="of adam and adamw")
    beta2: float = Field(0.999, ge=0.0, lt=1.0, description="of adam and adamw")
    rho: float = Field(0.9, ge=0.0, lt=1.0, description="decay of the squares in rmsprop and adadelta")
    eps: float | None = Field(None, gt=0.0, description="of the adaptive optimisers; PyTorch's own if unset")
    weight_decay: float = Field(0.0, ge=0.0, description="decoupled for adamw, else added to the gradient")
    decay_all: bool = Field(True, description="false: no weight decay of biases and norm parameters")
    l1: float = Field(0.0, ge=0.0, description="L1 penalty: l1 * sum|w|, weights only")
    l2: float = Field(0.0, ge=0.0, description="L2 penalty: l2 / 2 * sum w^2, weights only")

    # --------------------------------------------------------------------------------------- batches
    batch_size: PositiveInt | Literal["full"] = Field(
        64, description="samples per batch; 1 is online, full is all"
    )
    sampling: Literal["uniform", "balanced"] | tuple[float, ...] = Field(
        "uniform",
        description="how an epoch's samples are drawn; uniform: each once; balanced: with replacement, each "
        "class as often; numbers: with replacement, by these weights of the classes",
    )
    accumulate: int = Field(1, ge=1, description="batches whose gradients make one step")
    clip_norm: float | None = Field(None, gt=0.0, description="clip the gradient's 2-norm to this")
    clip_value: float | None = Field(None, gt=0.0, description="clip every gradient element to this")
    eval_batch_size: int = Field(2048, ge=1, description="samples per batch of an evaluation")

    # --------------------------------------------------------------------------------- learning rate
    schedule: ScheduleName | OwnPath = Field(
        "constant",
        description="one of ours; a scheduler of torch (torch.optim.lr_scheduler:LinearLR), which steps "
        "after every epoch; or a function of (step, steps) that returns a factor of lr",
    )
    schedule_args: dict[str, Any] = Field(
        default_factory=dict, description="keyword arguments of your own schedule"
    )
    warmup_epochs: float = Field(0.0, ge=0.0, description="linear warm-up before any schedule, in epochs")
    warmup_start: float = Field(0.1, gt=0.0, le=1.0, description="factor at which the warm-up starts")
    gamma: float = Field(0.1, gt=0.0, le=1.0, description="factor of step, multistep, exponential, plateau")
    step_epochs: int = Field(10, ge=1, description="epochs between two drops of schedule: step")
    milestones: tuple[int, ...] = Field((), description="epochs after which schedule: multistep drops")
    power: float = Field(1.0, gt=0.0, description="of schedule: polynomial")
    min_lr: float = Field(0.0, ge=0.0, description="lowest learning rate of cosine, restarts and plateau")
    restart_epochs: int = Field(10, ge=1, description="length of the first cycle of cosine_restarts")
    restart_factor: int = Field(1, ge=1, description="each cycle is this many times longer than the last")
    one_cycle_rise: float = Field(
        0.3, gt=0.0, lt=1.0, description="share of training in which one_cycle rises"
    )
    one_cycle_div: float = Field(25.0, ge=1.0, description="one_cycle starts at lr / this")
    one_cycle_final_div: float = Field(1e4, ge=1.0, description="and ends at its start / this")
    plateau_patience: int = Field(3, ge=0, description="epochs without improvement before plateau drops")

    # --------------------------------------------------------------------------- when training ends
    epochs: int = Field(20, ge=1, description="passes over the training data, at most")
    refit_epochs: int | None = Field(
        None, ge=1, description="train on training and validation data together, and end after so many epochs"
    )
    patience: int | None = Field(None, ge=1, description="stop after this many epochs without improvement")
    min_delta: float = Field(0.0, ge=0.0, description="an improvement must be larger than this")
    target: float | None = Field(None, description="stop when the monitored metric reaches this")
    converged_epochs: int | None = Field(
        None, ge=1, description="stop when the training loss changed by less"
    )
    converged_tolerance: float = Field(1e-4, gt=0.0, description="... than this in so many epochs")
    keep: Literal["best", "last"] = Field(
        "best", description="the weights (and values) that count at the end"
    )

    # --------------------------------------------------------------------------------------- metrics
    objective: str | Annotated[tuple[str, ...], Field(min_length=1)] | None = Field(
        None, description="metric(s) to return: accuracy or rmse if unset; several for multi-objective"
    )
    top_k: int = Field(5, ge=1, description="k of the metric top_k")
    positive_class: str | int | None = Field(
        None, description="the class of the metrics ..._positive; of two classes the second if unset"
    )
    beta: float = Field(1.0, gt=0.0, description="of fbeta_positive; 2 weighs recall more, 0.5 precision")
    threshold: float | Literal["largest", "best"] | None = Field(
        None,
        description="score from which the positive class is predicted; largest: where it is the largest "
        "(also if unset); best: the one with the largest fbeta_positive on the validation data",
    )
    seeds: int = Field(1, ge=1, le=1000, description="trainings of one setting, each of another seed")
    combine: Literal["mean", "median"] = Field("mean", description="what counts of several folds or seeds")

    # ----------------------------------------------------------------------------------------- speed
    amp: Literal["none", "bf16", "fp16"] = Field("none", description="autocast's type")
    channels_last: bool | Literal["auto"] = Field(
        "auto", description="memory layout of images and convolutions; auto: where it is faster"
    )
    compile: bool = Field(False, description="torch.compile the model")
    fused: bool = Field(True, description="fused optimiser kernels where PyTorch has them")
    tf32: bool = Field(False, description="TensorFloat-32 matrix products on CUDA")
    deterministic: bool = Field(False, description="only deterministic kernels, also on CUDA")
    checkpoint_every: NonNegativeInt | Literal["auto"] = Field(
        "auto",
        description="epochs between checkpoints; 0: never; auto: as often as costs under 5 % of the time",
    )

    @field_validator("kernel_size")
    @classmethod
    def _odd(cls, value: int) -> int:
        if value % 2 == 0:
            raise ValueError("must be odd, so that a convolution keeps the image's size")
        return value

    @model_validator(mode="after")
    def _consistent(self) -> TrainingConfig:
        if self.batch_norm and self.batch_size == 1:
            raise ValueError("batch_norm needs batches of at least 2 samples; batch_size is 1")
        if self.schedule == "multistep" and not self.milestones:
            raise ValueError("schedule: multistep needs milestones, a list of epochs")
        if self.split == "time" and (not self.time_column or self.split_by):
            raise ValueError("split: time needs time_column, a column of numbers or dates, and no split_by")
        if self.warmup_epochs >= self.epochs > 0 and self.warmup_epochs > 0:
            raise ValueError(
                f"warmup_epochs ({self.warmup_epochs:g}) must be smaller than epochs ({self.epochs})"
            )
        listed = len(self.channels) if isinstance(self.channels, tuple) else self.blocks
        if "blocks" in self.model_fields_set and listed != self.blocks:
            raise ValueError(f"channels lists {listed} blocks but blocks is {self.blocks}")
        return self

    @property
    def objectives(self) -> tuple[str, ...] | None:
        """The metrics to return, in order; None where the task's default is wanted."""
        return (self.objective,) if isinstance(self.objective, str) else self.objective

    @classmethod
    def read(cls, values: Mapping[str, Any]) -> TrainingConfig:
        """Validate `values` as a study file gives them.

        `model_args.width: 3` (and `dataset_args.*`) sets one argument, so that arguments can be searched;
        where `model`, `dataset`, `loss`, `optimizer` or `schedule` is your own callable, its keyword
        arguments may also stand by themselves.

        Raises:
            ConfigError: naming the field, the value and what is allowed.
        """
        try:
            return cls.model_validate(_collect_arguments(dict(values)))
        except ValidationError as error:
            raise ConfigError(_sentence(error)) from None


# Settings that say how a trial is measured, so that two trials that differ in one cannot be compared.
_SAME_FOR_ALL = ("folds", "seeds", "combine", "positive_class", "beta", "split", "split_by", "time_column")
# Settings that change what the metric `loss` measures, so that two trials' losses are not the same quantity.
_DEFINE_THE_LOSS = ("loss", "loss_args", "label_smoothing", "class_weights", "huber_delta")


def check_study(fixed: Mapping[str, Any], searched: Collection[str], task: Task) -> None:
    """Check the settings of a study before any trial: the fixed values, and the names that are searched.

    Rules that join several fields are left to `TrainingConfig.read`, which sees a trial's values together.

    A model and a data set of the user's own are imported, so that a file that is missing is said now, and
    counts as the study's code.

    Raises:
        ConfigError: as `TrainingConfig.read`.
    """
    for field in (*_OWN, "objective"):
        named = fixed.get(field)
        for path in named if isinstance(named, list | tuple) else [named]:
            if isinstance(path, str) and is_import_path(path):
                load_callable(path, field)
    settings = _collect_arguments(dict.fromkeys(searched) | dict(fixed))
    try:
        TrainingConfig.model_validate({name: value for name, value in settings.items() if name in fixed})
    except ValidationError as error:
        fields = [problem for problem in error.errors(include_url=False) if problem["loc"]]
        if fields:
            raise ConfigError(_sentence(error)) from None
    if measured := [name for name in _SAME_FOR_ALL if name in searched]:
        raise ConfigError(
            f"{measured[0]}: it says how every trial is measured and cannot be searched; put it under fixed"
        )
    named = settings.get("objective")
    unlike = [name for name in _DEFINE_THE_LOSS if name in searched]
    if unlike and (named == "loss" or (isinstance(named, list | tuple) and "loss" in named)):
        same = "log_loss" if task == "classification" else "rmse or mae"
        raise ConfigError(
            f"objective: with {' and '.join(unlike)} in the space each trial's loss is another quantity, "
            f"so losses cannot be compared; use {same}, which measures every trial alike"
        )


def _collect_arguments(values: dict[str, Any]) -> dict[str, Any]:
    """Move the arguments of what is the user's own into `model_args`, `dataset_args` and their like.

    Raises:
        ConfigError: a name is neither a setting nor such an argument.
    """
    settings = {name: value for name, value in values.items() if name in TrainingConfig.model_fields}
    extra = [name for name in values if name not in settings]
    for field in _OWN:
        arguments = dict(settings.get(f"{field}_args") or {})
        prefix = f"{field}_args."
        arguments |= {name.removeprefix(prefix): values[name] for name in extra if name.startswith(prefix)}
        extra = [name for name in extra if not name.startswith(prefix)]
        path = settings.get(field)
        if extra and isinstance(path, str) and is_import_path(path):
            accepted = inspect.signature(load_callable(path, field)).parameters
            arguments |= {name: values[name] for name in extra if name in accepted}
            extra = [name for name in extra if name not in accepted]
        if arguments:
            settings[f"{field}_args"] = arguments
    if extra:
        known, where = list(TrainingConfig.model_fields), "see docs/training.md for the settings there are"
        told = (f"unknown training setting {name!r}; {near(name, known, where)}" for name in extra)
        raise ConfigError("; ".join(told))
    return settings


def near(name: str, known: Sequence[str], otherwise: str = "") -> str:
    """A hint to somebody who wrote `name` where one of `known` was wanted."""
    found = difflib.get_close_matches(name, known, n=1)
    return f"did you mean {found[0]!r}?" if found else otherwise or f"there are {', '.join(known)}"


def _sentence(error: ValidationError) -> str:
    problems: dict[str, tuple[list[str], Any]] = {}
    for problem in error.errors(include_url=False, include_context=False):
        messages, _ = problems.setdefault(str((*problem["loc"], "")[0]), ([], problem["input"]))
        messages.append(problem["msg"].removeprefix("Value error, "))
    told = []
    for field, (messages, value) in problems.items():
        distinct = dict.fromkeys(message[:1].lower() + message[1:] for message in messages)
        told.append(f"{field}: {' or '.join(distinct)} (got {value!r})" if field else messages[0])
    return "; ".join(told)
