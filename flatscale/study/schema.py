"""The study file: one YAML document, validated here before anything starts.

Every part is a frozen pydantic model that refuses unknown keys and documents each field; the JSON
Schema exported by `flatscale schema` comes from these classes. Names that belong to a registry
(metrics, architectures, data sources) are checked against it by `flatscale.preflight`, because the
registries need torch and this file must not.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, FiniteFloat, model_validator

from flatscale.study.axes import Design, check_steps
from flatscale.study.declared import AnalysisConfig
from flatscale.study.identity import content_hash, identifying_content
from flatscale.study.keys import with_file_keys
from flatscale.study.levels import declare_parts
from flatscale.study.parts import BatchSize, Options, OptionValue, PositiveFloat, PositiveInt
from flatscale.study.parts import Named as _Named
from flatscale.study.parts import Part as _Part
from flatscale.study.parts import distinct as _distinct
from flatscale.study.pretrained import (
    OutcomeTable,
    Preprocessing,
    WeightsConfig,
    ZooConfig,
    check_weights,
    models_or_zoo,
    moved_zoo,
)
from flatscale.study.redaction import without_password
from flatscale.study.resources import ResourcesConfig

SLUG = r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,99}$"


class ShiftedConfig(_Part):
    """A second test set with the same classes, on which `shifted_*` metrics are measured."""

    source: str
    """As `data.source`; its test images are used."""
    path: str | None = None
    """As `data.path`."""
    options: Options = Field(default_factory=dict)
    """Options of the source."""
    size: PositiveInt | None = None
    """Images used, balanced over the classes; all by default."""


class DataConfig(_Part):
    """What the networks are trained, tested and measured on."""

    source: str = "digits"
    """Images: `digits` (ships with scikit-learn), `parquet` (Hugging Face layout), `folder` (one
    folder a class), `cifar10`, `cifar100`, `mnist`, `fashion_mnist` (torchvision, from `path`).
    Tables: `table` (CSV or Parquet), `sklearn`. With a known structure: `gaussian_mixture`,
    `teacher_student`, `deep_linear`. Tokens: `modular_arithmetic`, `text`. Or a plugin's name."""
    path: str | None = None
    """Where the files are, for a source that has any; relative to the current folder. It is
    not part of a trial's id: the data's content hash guards a store against different data."""
    classes: Annotated[tuple[int | str, ...], Field(min_length=2), _distinct("class")] | None = None
    """Which classes to keep, by name or index, in this order; all of them by default."""
    train_size: int | None = Field(default=None, ge=2)
    """How many training images to keep, drawn evenly over the classes; all by default."""
    test_size: int | None = Field(default=None, ge=2)
    """How many test images to keep, drawn evenly over the classes; all by default."""
    image_size: int | None = Field(default=None, ge=4)
    """Resize images to this height and width; required when the files differ in size."""
    download: bool = False
    """Let torchvision fetch a missing dataset into `path`."""
    name: str | None = Field(default=None, min_length=1, max_length=100)
    """What to call these data; tells two of one source apart, such as two folders. Part of the
    id of a trial, if given."""
    options: Options = Field(default_factory=dict)
    """Options of the source."""
    label_noise: float = Field(default=0.0, ge=0, le=1)
    """Share of the training labels that are drawn anew, evenly over the classes; 1: all random."""
    pixels: str | None = None
    """`permuted` (one permutation for all images), `shuffled` (one for each), `gaussian` (normal
    pixels), `grey` (one channel), in training and test images; as they are by default."""
    shortcut: float = Field(default=0.0, ge=0, le=1)
    """Share of the training images whose first pixels show their label; those of every test image
    show another class."""
    held_out_size: int | None = Field(default=None, ge=1)
    """Training images kept apart, for `training.patience`."""
    shifted: ShiftedConfig | None = None
    """A second test set, of the same kind and with classes of the same names, that networks were
    not trained for; none by default."""


class ModelConfig(_Part):
    """One architecture of the study."""

    architecture: str
    """`mlp`, `lenet`, `vgg11` (the paper's), `timm:<name>`, or a plugin's name."""
    family: str | None = Field(default=None, min_length=1, max_length=100)
    """The family this network counts as in the statistics; the architecture's own by default."""
    options: Options = Field(default_factory=dict)
    """Options of the architecture, such as `width: 100` for `mlp`."""
    design: Design | None = None
    """A design of its own instead of the study's."""
    training: TrainingConfig | None = None
    """Training settings of its own instead of the study's."""
    name: str | None = Field(default=None, min_length=1)
    """What this one network is called, in tables of outcomes too; for a network with weights."""
    weights: WeightsConfig | None = None
    """Where its weights are: it is measured with them and not trained. A zoo fills this in."""
    preprocessing: Preprocessing | None = None
    """How images become its inputs, given weights; the data's own size and [0, 1] by default."""
    outcomes: dict[str, FiniteFloat] = Field(default_factory=dict)
    """What others published of this network, by column."""


class OptimizerConfig(_Named):
    """The optimizer and its constants; its learning rate stands beside it or is an axis."""

    name: str = "sgd"
    """`sgd`, `adam`, `adamw`, `rmsprop`, `timm:<name>`, `sam` or `asam` around one of them, or a
    plugin's name; other keys are constants of the optimizer of that name."""
    momentum: float = Field(default=0.0, ge=0, lt=1)
    """Momentum of SGD, and of other optimizers that take one."""
    weight_decay: float = Field(default=0.0, ge=0)
    """L2 penalty added to the gradient (decoupled in `adamw`), by optimizers that take one."""
    base: OptimizerConfig | None = None
    """The optimizer that `sam` and `asam` are around, `sgd` by default; constants beside it that
    are not theirs are its own."""

    @property
    def constants(self) -> Options:
        """What is given to the optimizer: momentum and weight decay unless 0, and its own."""
        both: Options = {"momentum": self.momentum, "weight_decay": self.weight_decay}
        return {name: value for name, value in both.items() if value} | (self.model_extra or {})


class ScheduleConfig(_Named):
    """The learning rate over the steps, as a factor of the design's."""

    name: str = "constant"
    """`constant`, `cosine`, `linear` or `steps`; other keys are its constants. It runs from the end
    of the warm-up to the step limit."""
    warmup_steps: int = Field(default=0, ge=0)
    """Steps over which the learning rate first rises linearly from 0."""


class AveragingConfig(_Named):
    """An average of the weights beside the last; `measurement.weights` says which to measure."""

    name: str
    """`ema` (its `decay` a step) or `swa` (the mean); other keys are its constants."""
    start_step: int = Field(default=0, ge=0)
    """The average begins after this step; until then it is the network itself."""
    every: int = Field(default=1, ge=1)
    """Steps between the networks that are averaged."""


class TransformConfig(_Named):
    """One random change of the training images."""

    name: str
    """A class of torchvision.transforms.v2, such as `RandomHorizontalFlip`; other keys are its
    arguments."""


class TrainingConfig(_Part):
    """How every network is trained."""

    learning_rate: PositiveFloat | None = None
    """Learning rate, where the design does not vary it."""
    batch_size: BatchSize | None = None
    """Points a step, where the design does not vary it; `full` is the whole training set."""
    optimizer: OptimizerConfig = OptimizerConfig()
    """Optimizer and its constants."""
    schedule: ScheduleConfig = ScheduleConfig()
    """The learning rate over the steps."""
    loss: str = "half_squared_error"
    """`half_squared_error` (1/2 ||f - onehot||^2, the paper's), `squared_error`, `cross_entropy`,
    or a plugin's name."""
    label_smoothing: float = Field(default=0.0, ge=0, lt=1)
    """Share of each target that is spread evenly over the classes. It changes what is descended;
    the training loss that is looked at stays that of the classes."""
    clip_gradient: PositiveFloat | None = None
    """Largest norm of the gradient of a step; a longer one is scaled down to it."""
    augmentation: tuple[TransformConfig, ...] = ()
    """Random changes of the training images, in order, drawn anew for each image in each epoch."""
    averaging: AveragingConfig | None = None
    """An average of the weights; none by default."""
    stop_loss: PositiveFloat | None = 0.01
    """Stop when the mean training loss over the whole training set is at most this; null: never."""
    stop_accuracy: float | None = Field(default=None, gt=0, le=1)
    """Stop when the accuracy on the whole training set is at least this."""
    stop_gradient_norm: PositiveFloat | None = None
    """Stop when the norm of the training loss's gradient over the whole training set is at most
    this."""
    patience: int | None = Field(default=None, ge=1)
    """Early stopping: stop when the loss on `data.held_out_size` images has not been lower than its
    lowest for this many evaluations."""
    max_steps: int = Field(default=20_000, ge=1)
    """Stop after this many optimizer steps in any case."""
    max_epochs: int | None = Field(default=None, ge=1)
    """Stop after this many epochs too, where they come first."""
    evaluate_every: int | None = Field(default=None, ge=1)
    """Steps between evaluations of the whole training set. By default the rules above are looked at
    once an epoch; from the sixteenth epoch on, a look may end as soon as the training loss is
    known to be above `stop_loss`, and one in an eighth of the steps so far is written down."""
    microbatch_size: int | None = Field(default=None, ge=1)
    """Most images computed at once in a step; the whole batch, while memory lasts, by default."""
    checkpoint_every: int | None = Field(default=None, ge=1)
    """Steps between checkpoints a trial can resume from when its worker dies; none by default:
    a lost trial starts again."""


ModelConfig.model_rebuild()


DEFAULT_METRICS = (
    "train_loss",
    "train_accuracy",
    "test_loss",
    "test_accuracy",
    "generalization_gap",
    "mls",
    "nmls",
    "log_lvr",
    "log_nvr",
    "local_dimensionality",
    "sharpness",
    "adaptive_sharpness",
)
"""What is measured where no metrics are named; with it come the inequalities that bound it."""


class MeasurementConfig(_Part):
    """What is measured, on what, and when."""

    metrics: Annotated[tuple[str, ...], Field(min_length=1), _distinct("metric")] = DEFAULT_METRICS
    """Metric names; `flatscale metrics` lists them."""
    probe_size: int = Field(default=100, ge=2)
    """Images in the probe set, drawn evenly over the classes from the training images (one paired
    set for all trials of the study)."""
    probe_split: Literal["train", "test"] = "train"
    """Which images the probe set is drawn from."""
    output_map: Literal["identity", "sigmoid", "softmax"] = "identity"
    """Applied to the network's outputs before anything is measured."""
    weights: Literal["last", "average"] = "last"
    """Measure the last weights or their `training.averaging`; as an axis, the same networks both
    ways."""
    loss: str | None = None
    """Loss of the sharpness measures; the training loss by default."""
    num_snapshots: int = Field(default=1, ge=1)
    """1 measures at the end; more adds log-spaced steps up to `max_steps`, ending with the end."""
    options: dict[str, dict[str, OptionValue | None]] = Field(default_factory=dict)
    """Options of single metrics, such as `adaptive_sharpness: {rho: 0.1}`."""
    check_bounds: bool = True
    """Also check the inequalities that bound the metrics asked for, with the options of these; they
    cost little beside them. Changes no trial's id."""


class TrackingConfig(_Part):
    """Where MLflow records go."""

    uri: str | None = None
    """An MLflow tracking URI; by default MLFLOW_TRACKING_URI, else a SQLite file in the store."""
    experiment: str | None = None
    """Experiment name; the study's name by default."""
    enabled: bool = True
    """Write to MLflow at all."""
    system_metrics: bool = False
    """Also what the driver's machine does every ten seconds: processors, memory, disk, network."""


class StudyConfig(_Part):
    """A whole study."""

    name: str = Field(pattern=SLUG)
    """Letters, digits, `_`, `.` and `-`; names the store and the MLflow experiment."""
    description: str = ""
    """What is asked, in a sentence; printed in the report."""
    seed: int = Field(default=0, ge=0)
    """Everything random in the study derives from it."""
    plugins: tuple[str, ...] = ()
    """Python modules to import for what they register: metrics, passes, models, datasets,
    optimizers, losses, statistics, sections of the report."""
    plugin_code: dict[str, str] = Field(default_factory=dict)
    """Written by flatscale: what names the code of each plugin that the study was run with."""
    profile: str | None = None
    """Written by flatscale: which of the study file's `profiles` was written over it."""
    data: DataConfig = DataConfig()
    """Data."""
    models: tuple[ModelConfig, ...] = Field(default=(), min_length=1)
    """Networks; or `{zoo: {source: ...}}`, networks that others trained."""
    zoo: ZooConfig | None = None
    """Where the networks were found, where `models` was a zoo."""
    outcomes: tuple[OutcomeTable, ...] = ()
    """Tables of published results, joined to networks with weights by their name."""
    design: Design
    """The sweep; none where `models` is a zoo."""
    training: TrainingConfig = TrainingConfig()
    """Training."""
    measurement: MeasurementConfig = MeasurementConfig()
    """Measurement."""
    resources: ResourcesConfig = ResourcesConfig()
    """Resources."""
    analysis: AnalysisConfig = AnalysisConfig()
    """Analysis."""
    tracking: TrackingConfig = TrackingConfig()
    """Tracking."""
    keep_checkpoints: bool = False
    """Keep every trial's final weights (safetensors), so that more can be measured later."""

    @model_validator(mode="after")
    def _steps_are_known(self) -> StudyConfig:
        for index, model in enumerate(self.models):
            design, training = model.design or self.design, model.training or self.training
            check_steps(f"models[{index}]", design, training)
        return self

    @model_validator(mode="before")
    @classmethod
    def _zoo_apart(cls, content: Any) -> Any:
        return moved_zoo(content)

    @model_validator(mode="after")
    def _trained_or_given(self) -> StudyConfig:
        designs = {self.design.kind, *(m.design.kind for m in self.models if m.design)}
        check_weights([m.weights for m in self.models], self.zoo, designs)
        return self

    @property
    def only_measures(self) -> bool:
        """Whether the networks come with their weights: nothing is trained."""
        return self.design.kind == "none"

    @property
    def content_hash(self) -> str:
        """SHA-256 of the validated study, the hash printed in the report (16 hex digits)."""
        return content_hash(identifying_content(self._without_password()))

    def shown(self) -> dict[str, Any]:
        """The study as it may be stored, tracked and printed: without a password."""
        return self._without_password().model_dump(mode="json")

    def _without_password(self) -> StudyConfig:
        if self.tracking.uri is None:
            return self
        uri = without_password(self.tracking.uri)
        return self.model_copy(update={"tracking": self.tracking.model_copy(update={"uri": uri})})


declare_parts(
    {
        "data": DataConfig,
        "model": ModelConfig,
        "training": TrainingConfig,
        "measurement": MeasurementConfig,
    },
    {
        "model.family": "it changes no result",
        "model.design": "a design holds no design",
        "model.training": "vary training",
        "model.name": "it changes no result",
        "model.outcomes": "they change no result",
        "model.weights": "networks with weights are listed under models",
        "model.preprocessing": "it goes with weights",
        "data.path": "it is in no trial's id; vary data, with a name for each",
        "data.download": "it changes no result",
        "training.checkpoint_every": "it changes no result",
        "measurement.check_bounds": "it changes no result",
    },
)


def json_schema() -> dict[str, Any]:
    """JSON Schema of the study file, for editors."""
    return with_file_keys(models_or_zoo(StudyConfig.model_json_schema()))
