"""A recipe: every setting of the method, declared once and validated before any work starts.

Recipes are TOML files with the tables ``[synthesis]``, ``[quantization]`` and ``[tuning]``; keys are the fields below.
Some settings can name functions written by the user, see :mod:`intraq_cli.runtime.extensions`.
"""

import dataclasses
import re
from typing import Annotated, Any, Literal, Self

from pydantic import (
    AfterValidator,
    BeforeValidator,
    ConfigDict,
    Field,
    StrictBool,
    StrictFloat,
    StrictInt,
    StrictStr,
    TypeAdapter,
    ValidationError,
    model_validator,
)
from pydantic.dataclasses import dataclass
from pydantic_core import PydanticCustomError

from intraq_cli.choices import Compile, Placement, Precision
from intraq_cli.errors import RecipeError
from intraq_cli.recipe_errors import explain

LARGEST = 10**9
"""Upper bound of numbers that need no tighter one."""
CONFIG = ConfigDict(extra="forbid")


def _not_a_number(value: Any) -> Any:
    """Return numbers as text, so that pydantic does not accept 1 as True."""
    return value if isinstance(value, bool) or not isinstance(value, (int, float)) else str(value)


def _user_function(name: str) -> str:
    """Check that a user function is given as ``path/to/file.py:function`` or by its name."""
    if not re.fullmatch(r"(.+\.py:)?[^\W\d]\w*", name):
        raise PydanticCustomError("user_function", "path/to/file.py:function, or the name of a decorated function")
    return name


def _rounding(name: str) -> str:
    if ".py:" not in name and not name.isidentifier():
        raise PydanticCustomError("user_function", f"{', '.join(ROUNDINGS)}, or path/to/file.py:function")
    return name


Weight = Annotated[StrictFloat, Field(ge=0, le=LARGEST)]
"""Weight of a loss term."""
UserFunction = Annotated[StrictStr, Field(max_length=1000), AfterValidator(_user_function)]
ROUNDINGS = ("nearest", "squant", "gptq")
CompileSetting = Annotated[Compile, BeforeValidator(_not_a_number)]


@dataclass(frozen=True, kw_only=True, config=CONFIG)
class Synthesis:
    """Stage 1: learning images from noise. The defaults are those of the default recipe."""

    num_images: StrictInt = Field(default=1024, ge=0, le=10_000_000)
    """Images to learn. 0: none; without ``--images``, ranges and corrections then come from batch-norm statistics, and
    ``tuning.steps`` must be 0."""
    batch_size: StrictInt = Field(default=256, ge=2, le=65536)
    """Images that are optimised together. The batch-norm statistics loss is computed over the whole batch."""
    steps: StrictInt = Field(default=100, ge=1, le=1_000_000)
    """Adam steps per batch."""
    space: Literal["spectrum", "pixels"] = "spectrum"
    """What is optimised: the ``pixels`` of the images, starting from white noise (as published), or their Fourier
    coefficients (``spectrum``)."""
    lr: StrictFloat = Field(default=0.1, ge=0, le=100)
    """Adam's learning rate. Its unit is normalised pixel values, or Fourier coefficients scaled so that white noise has
    variance 1 (they are initialised with a standard deviation of 0.3)."""
    schedule: Literal["cosine", "plateau"] = "cosine"
    """Learning rate schedule: cosine decay, or ``plateau`` (as published): times 0.1 after 50 steps without a lower
    loss, down to 1e-4."""
    bns: Literal["scale-free", "paper"] = "scale-free"
    """Batch-norm statistics loss: distances in units of each channel's standard deviation (``scale-free``), or squared
    distances as published (``paper``)."""
    bns_weight: Weight = 3.0
    """Weight of the batch-norm statistics loss."""
    sil_weight: Weight = 1.0
    """Weight of the soft inception loss."""
    mdc_weight: Weight = 1.0
    """Weight of the marginal distance constraint."""
    losses: dict[UserFunction, Weight] = dataclasses.field(default_factory=dict)
    """Weights of user-defined losses, each given as ``path/to/file.py:function`` or by the name of a decorated
    function."""
    lor_probability: StrictFloat = Field(default=0.5, ge=0, le=1)
    """Probability that local object reinforcement shows the network a random crop instead of the whole image."""
    lor_coin: Literal["batch", "image"] = "image"
    """Whether to decide on the crop once for the whole batch (as published) or for each image."""
    eta: StrictFloat = Field(default=0.5, ge=0.01, le=1)
    """Smallest area of the random crop, as a fraction of the image."""
    lambda_lower: StrictFloat = Field(default=0.05, ge=0, le=2)
    """Cosine distance to the class centre below which the marginal distance constraint acts."""
    lambda_upper: StrictFloat = Field(default=0.8, ge=0, le=2)
    """Cosine distance to the class centre above which the marginal distance constraint acts."""
    epsilon: StrictFloat = Field(default=0.9, ge=0, le=1)
    """Lower end of the target probabilities of the soft inception loss, drawn from U(epsilon, 1)."""
    labels: Literal["balanced", "uniform"] = "balanced"
    """Classes of the images. ``uniform``: drawn independently; ``balanced``: every class equally often, in random
    order."""
    clip: StrictBool = True
    """Keep every pixel in the range that normalised real images can have."""
    precision: Precision = "auto"
    """``auto``: bfloat16 on CPUs with fast bfloat16 multiplication, float32 elsewhere. Statistics, logits and losses
    are always float32."""
    compile: CompileSetting = "auto"
    """Use ``torch.compile``: faster steps after minutes of compilation; needs a C++ compiler. ``auto``: compile on a
    CPU if there is a C++ compiler and the run is long enough to benefit; on a GPU, record the kernels as a CUDA graph,
    which takes a second. ``False``: neither."""


@dataclass(frozen=True, kw_only=True, config=CONFIG)
class Quantization:
    """Quantization grids, and how they are chosen."""

    weight_range: Literal["mse", "minmax"] = "mse"
    """Range of a weight's grid, per output channel: the range with the least squared error (``mse``), or from minimum
    to maximum."""
    weight_rounding: Annotated[StrictStr, Field(max_length=1000), AfterValidator(_rounding)] = "gptq"
    """How weights are rounded before tuning. ``nearest``: tuning starts from the unrounded weights; the others: from
    rounded ones. ``squant``: the errors of a kernel and of a channel cancel (SQuant); ``gptq``: later columns
    compensate for each column's error, by the inputs' second moments (GPTQ); or a user-defined function."""
    weight_scale: Literal["learned", "recomputed"] = "learned"
    """``learned``: tuning learns the scales; ``recomputed``: every step recomputes the range from the weights (as
    published)."""
    activation_range: Literal["output", "mse", "ema"] = "output"
    """``mse``: least squared error of the activation; ``output``: least squared error of the next layer's output;
    ``ema``: moving average of the minimum and maximum of ``ema_steps`` training batches (as published)."""
    activation_scale: Literal["learned", "frozen"] = "learned"
    """Whether tuning learns the activation scales."""
    equalization: StrictBool = True
    """First scale the channels of activations to similar ranges, and the next layer's weights by the inverse. The float
    network computes the same."""
    correction: Literal["always", "never"] = "always"
    """Before tuning, correct means and variances that quantization has shifted: batch-norm statistics, biases of layers
    without a batch norm after them (Nagel et al. 2019), and gains of channels with a folded batch norm."""
    ema_beta: StrictFloat = Field(default=0.9, ge=0, le=0.9999)
    """Decay of the moving average of ``activation_range = ema``."""
    ema_steps: StrictInt = Field(default=800, ge=1, le=LARGEST)
    """Number of batches in the moving average of ``activation_range = ema``."""
    act_placement: Placement | None = None
    """Placement of the activation quantizers if no option sets it; None: ``inputs``."""

    @model_validator(mode="after")
    def _check_together(self) -> Self:
        if self.weight_rounding != "nearest" and self.weight_scale == "recomputed":
            raise RecipeError(
                f"quantization.weight_rounding = {self.weight_rounding} does not work with weight_scale = recomputed",
                "set quantization.weight_scale=learned, or quantization.weight_rounding=nearest",
            )
        if self.activation_range == "ema" and (self.rounds_by_inputs or self.correction != "never"):
            raise RecipeError(
                "quantization.activation_range = ema needs weight_rounding = nearest or squant, and correction = never",
                "set quantization.weight_rounding=nearest and quantization.correction=never",
            )
        return self

    @property
    def rounds_by_inputs(self) -> bool:
        """Whether the weight rounding uses the second moments of the layers' inputs."""
        return self.weight_rounding not in ("nearest", "squant")


@dataclass(frozen=True, kw_only=True, config=CONFIG)
class Tuning:
    """Stage 2: tuning the quantized network to match its teacher."""

    steps: StrictInt = Field(default=800, ge=0, le=10_000_000)
    """Optimizer steps. 0: no tuning."""
    batch_size: StrictInt = Field(default=128, ge=1, le=65536)
    """Images per step."""
    optimizer: Literal["adam", "sgd"] = "adam"
    """Adam, or stochastic gradient descent."""
    lr: StrictFloat = Field(default=0.005, ge=0, le=10)
    """Learning rate. ``adam`` with learned scales: in units of the quantization step, the same for every width and
    layer; ``sgd``: absolute."""
    schedule: Literal["cosine", "step"] = "cosine"
    """Learning rate schedule: cosine decay to zero, or ``step``: see ``lr_steps``."""
    lr_steps: tuple[Annotated[StrictInt, Field(ge=0, le=LARGEST)], ...] = ()
    """For ``schedule = step``: the learning rate is divided by ten after each of these steps."""
    momentum: StrictFloat = Field(default=0.9, ge=0, le=0.9999)
    """Nesterov momentum of ``sgd``."""
    weight_decay: StrictFloat = Field(default=0.0, ge=0, le=1)
    """``adam``: decay of weights only, decoupled from the gradient (AdamW); ``sgd``: of all tuned parameters."""
    temperature: StrictFloat = Field(default=1.0, ge=0.01, le=1000)
    """Softmax temperature of the divergence that tuning minimises. The divergence is multiplied by its square."""
    kl_weight: Weight = 1.0
    """Weight of the divergence."""
    ce_weight: Weight = 0.0
    """Weight of the cross-entropy with the classes that the images were made for."""
    feature_weight: Weight = 30.0
    """Weight of the squared error of every batch norm's output, in units of its variance."""
    crop_eta: StrictFloat = Field(default=0.5, ge=0.01, le=1)
    """Smallest area of the random crops for tuning, as a fraction of the image; 1: whole images."""
    mix: Literal["none", "mixup", "cutmix"] = "cutmix"
    """Mix each image with another one, which makes up at most half of the result."""
    jitter: StrictFloat = Field(default=0.3, ge=0, le=2)
    """Random contrast and brightness of the tuning images: standard deviation of the logarithm of the contrast. The
    standard deviation of the brightness is two thirds of it."""
    holdout: StrictFloat = Field(default=0.125, ge=0, le=0.9)
    """Share of the synthetic images that tuning never sees; agreement with the teacher is measured on them."""
    precision: Precision = "auto"
    """As in synthesis."""
    compile: CompileSetting = "auto"
    """As in synthesis."""


SECTIONS = {"synthesis": Synthesis, "quantization": Quantization, "tuning": Tuning}
"""The tables of a recipe file, and the dataclass of each."""


@dataclass(frozen=True, kw_only=True, config=CONFIG)
class Recipe:
    """All settings of one ``quantize`` run except the bits."""

    name: StrictStr = "default"
    description: StrictStr = ""
    synthesis: Synthesis = dataclasses.field(default_factory=Synthesis)
    quantization: Quantization = dataclasses.field(default_factory=Quantization)
    tuning: Tuning = dataclasses.field(default_factory=Tuning)

    @classmethod
    def from_dict(cls, data: dict[str, Any], name: str) -> Self:
        """Build a recipe from parsed TOML; absent keys keep their defaults.

        Raises:
            RecipeError: an unknown table or key, a wrong type, or a value out of range.
        """
        try:
            recipe = TypeAdapter(cls).validate_python(data)
        except ValidationError as error:
            found = [explain(one, SECTIONS) for one in error.errors(include_url=False)]
            raise RecipeError(*("; ".join(dict.fromkeys(texts)) for texts in zip(*found, strict=True))) from error
        return dataclasses.replace(recipe, name=name)

    def override(self, assignments: list[str]) -> Self:
        """Apply ``section.key=value`` assignments (``--set``). Values are TOML; bare words are strings.

        ``synthesis.losses.file.py:function=value`` sets one entry of the table ``synthesis.losses``.

        Raises:
            RecipeError: as for :meth:`from_dict`, or a text that is not an assignment.
        """
        data = self.to_dict()
        for text in assignments:
            key, equals, value = text.partition("=")
            section, dot, name = key.strip().partition(".")
            if not equals or not dot:
                raise RecipeError(f"--set {text}: must be of the form section.key=value", "e.g. --set tuning.steps=200")
            if section not in SECTIONS:
                raise RecipeError(f"unknown recipe table {section!r} in --set {text}", f"tables: {', '.join(SECTIONS)}")
            table, dot, entry = name.partition(".")
            if dot and isinstance(data[section].get(table), dict):
                data[section][table][entry.strip("\"'")] = _parse_value(value.strip())
            else:
                data[section][name] = _parse_value(value.strip())
        return type(self).from_dict(data, self.name)

    def to_dict(self) -> dict[str, Any]:
        """Return the whole recipe, except its name, as plain values."""
        return {key: value for key, value in dataclasses.asdict(self).items() if key != "name"}


def choose_placement(option: Placement | None, recipe: Recipe) -> Placement:
    """Return the placement of the activation quantizers: the option if given, else the recipe's, else ``inputs``.

    Raises:
        RecipeError: the recipe does not support the placement.
    """
    settings = recipe.quantization
    placement = option or settings.act_placement or "inputs"
    if placement == "integer" and (settings.weight_scale == "recomputed" or settings.activation_range == "ema"):
        raise RecipeError(
            f"placement integer does not work with recipe {recipe.name}: its scales are unknown when biases are set",
            "set quantization.weight_scale=learned and quantization.activation_range=mse, or choose another recipe",
        )
    return placement


def _parse_value(text: str) -> Any:
    import tomllib  # here, for a quick start

    try:
        return tomllib.loads(f"x = {text}")["x"]
    except (ValueError, RecursionError):
        return text
