"""A recipe: every setting of the method, declared once, checked before any work.

Recipes are TOML files with the tables ``[synthesis]``, ``[quantization]`` and ``[tuning]``; keys are the fields below.
Some of them may name functions of the user's own, see :mod:`intraq_cli.runtime.extensions`.
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

__all__ = ["Compile", "Placement", "Precision", "Quantization", "Recipe", "Synthesis", "Tuning", "choose_placement"]

LARGEST = 10**9
"""Upper bound of numbers that have no bound of their own."""
CONFIG = ConfigDict(extra="forbid")


def _not_a_number(value: Any) -> Any:
    """Numbers as text, so that 1 is not taken for True."""
    return value if isinstance(value, bool) or not isinstance(value, (int, float)) else str(value)


def _own_function(name: str) -> str:
    """See that a user's function is spelled ``path/to/file.py:function``, or by its name."""
    if not re.fullmatch(r"(.+\.py:)?[^\W\d]\w*", name):
        raise PydanticCustomError("own_function", "path/to/file.py:function, or the name of a decorated function")
    return name


def _rounding(name: str) -> str:
    if ".py:" not in name and name not in ROUNDINGS and not name.isidentifier():
        raise PydanticCustomError("own_function", f"{', '.join(ROUNDINGS)}, or path/to/file.py:function")
    return name


Weight = Annotated[StrictFloat, Field(ge=0, le=LARGEST)]
"""Of a term of a loss."""
OwnFunction = Annotated[StrictStr, Field(max_length=1000), AfterValidator(_own_function)]
ROUNDINGS = ("nearest", "squant", "gptq")
CompileSetting = Annotated[Compile, BeforeValidator(_not_a_number)]


@dataclass(frozen=True, kw_only=True, config=CONFIG)
class Synthesis:
    """Stage 1: from noise to images. Defaults are the default recipe's."""

    num_images: StrictInt = Field(default=1024, ge=0, le=10_000_000)
    """Images to learn. 0: none; ranges and corrections then come from batch-norm statistics, and nothing is tuned."""
    batch_size: StrictInt = Field(default=256, ge=2, le=65536)
    """Images that are optimised together, and share their batch-norm statistics."""
    steps: StrictInt = Field(default=100, ge=1, le=1_000_000)
    """Steps of Adam for each batch."""
    space: Literal["spectrum", "pixels"] = "spectrum"
    """What is optimised: the images' ``pixels``, from white noise (published), or their Fourier coefficients."""
    lr: StrictFloat = Field(default=0.1, ge=0, le=100)
    """Adam's learning rate, in normalised pixel values, or in Fourier coefficients scaled so that white noise has
    variance 1 (they begin with a standard deviation of 0.3)."""
    schedule: Literal["cosine", "plateau"] = "cosine"
    """Of the learning rate: falling as a cosine, or ``plateau`` (published): times 0.1 after 50 steps without a better
    loss, down to 1e-4."""
    bns: Literal["scale-free", "paper"] = "scale-free"
    """Batch-norm statistics loss: in units of each channel's own deviation, or squared distances as published."""
    bns_weight: Weight = 3.0
    """Weight of the batch-norm statistics loss."""
    sil_weight: Weight = 1.0
    """Weight of the soft inception loss."""
    mdc_weight: Weight = 1.0
    """Weight of the marginal distance constraint."""
    losses: dict[OwnFunction, Weight] = dataclasses.field(default_factory=dict)
    """Weights of losses of the user's own, by ``path/to/file.py:function``, or by the names of decorated functions."""
    lor_probability: StrictFloat = Field(default=0.5, ge=0, le=1)
    """How often local object reinforcement shows the network a random crop in place of the whole image."""
    lor_coin: Literal["batch", "image"] = "image"
    """Whether that is drawn for a whole batch (published) or for each image."""
    eta: StrictFloat = Field(default=0.5, ge=0.01, le=1)
    """Smallest area of such a crop, as a fraction of the image."""
    lambda_lower: StrictFloat = Field(default=0.05, ge=0, le=2)
    """Cosine distance to the class centre below which the marginal distance constraint acts."""
    lambda_upper: StrictFloat = Field(default=0.8, ge=0, le=2)
    """Cosine distance to the class centre above which it does."""
    epsilon: StrictFloat = Field(default=0.9, ge=0, le=1)
    """Lower end of the target probabilities of the soft inception loss, drawn from U(epsilon, 1)."""
    labels: Literal["balanced", "uniform"] = "balanced"
    """``uniform``: drawn independently; ``balanced``: every class equally often, in random order."""
    clip: StrictBool = True
    """Keep every pixel inside what a real image can have after normalisation."""
    precision: Precision = "auto"
    """``auto``: bfloat16 on CPUs that multiply it natively, float32 elsewhere; statistics, logits and losses always are
    float32."""
    compile: CompileSetting = "auto"
    """By ``torch.compile``: less time a step, after minutes of compiling; needs a C++ compiler. ``auto``: on CPUs
    that have one where the run is so long that it pays; on a GPU its kernels are recorded as a CUDA graph, in a
    second. ``False``: neither."""


@dataclass(frozen=True, kw_only=True, config=CONFIG)
class Quantization:
    """Grids and where they come from."""

    weight_range: Literal["mse", "minmax"] = "mse"
    """Range of a weight's grid, per output channel: of least squared error, or from minimum to maximum."""
    weight_rounding: Annotated[StrictStr, Field(max_length=1000), AfterValidator(_rounding)] = "gptq"
    """What tuning starts from. ``nearest``: the weights as they are; the others: whole numbers.
    ``squant``: the errors of a kernel and of a channel cancel (SQuant); ``gptq``: each column's error is made up
    for by those after it, by the inputs' second moments (GPTQ); or a function of the user's own."""
    weight_scale: Literal["learned", "recomputed"] = "learned"
    """``recomputed``: the range is taken anew from the weights at every step (published)."""
    activation_range: Literal["output", "mse", "ema"] = "output"
    """``mse``: least squared error; ``output``: that of the next layer's output; ``ema``: moving average of the minimum
    and maximum of ``ema_steps`` training batches (published)."""
    activation_scale: Literal["learned", "frozen"] = "learned"
    """Whether tuning moves the scales of activations."""
    equalization: StrictBool = True
    """Scale channels of activations to like ranges first, and the next weights back: the network computes the same."""
    correction: Literal["always", "never"] = "always"
    """Correct, before tuning, what quantization does to means and variances: batch norms' statistics, the biases of
    layers that no batch norm follows (Nagel et al. 2019), the gain of channels with a folded batch norm."""
    ema_beta: StrictFloat = Field(default=0.9, ge=0, le=0.9999)
    """Decay of the moving average ``ema``."""
    ema_steps: StrictInt = Field(default=800, ge=1, le=LARGEST)
    """Batches that the moving average ``ema`` is taken over."""
    act_placement: Placement | None = None
    """Placement of the activation quantizers where no option gives one; None: ``inputs``."""

    @model_validator(mode="after")
    def _check_together(self) -> Self:
        if self.weight_rounding != "nearest" and self.weight_scale == "recomputed":
            raise RecipeError(
                f"quantization.weight_rounding = {self.weight_rounding} needs scales that stay",
                "set quantization.weight_scale=learned too, or weight_rounding=nearest",
            )
        if self.activation_range == "ema" and (self.rounds_by_inputs or self.correction != "never"):
            raise RecipeError(
                "quantization.activation_range = ema takes the weights as they are",
                "set quantization.weight_rounding=nearest and quantization.correction=never too",
            )
        return self

    @property
    def rounds_by_inputs(self) -> bool:
        """Whether the rounding of weights makes use of the second moments of their layers' inputs."""
        return self.weight_rounding not in ("nearest", "squant")


@dataclass(frozen=True, kw_only=True, config=CONFIG)
class Tuning:
    """Stage 2: tuning the quantized network against its teacher."""

    steps: StrictInt = Field(default=800, ge=0, le=10_000_000)
    """Steps of the optimizer. 0: no tuning."""
    batch_size: StrictInt = Field(default=128, ge=1, le=65536)
    """Images in a step."""
    optimizer: Literal["adam", "sgd"] = "adam"
    """Adam, or stochastic gradient descent."""
    lr: StrictFloat = Field(default=0.005, ge=0, le=10)
    """``adam`` with learned scales: in quantization steps, the same for every width and layer; ``sgd``: absolute."""
    schedule: Literal["cosine", "step"] = "cosine"
    """Of the learning rate: falling to zero as a cosine, or by ``lr_steps``."""
    lr_steps: tuple[Annotated[StrictInt, Field(ge=0, le=LARGEST)], ...] = ()
    """``step``: the learning rate is divided by ten after each of these steps."""
    momentum: StrictFloat = Field(default=0.9, ge=0, le=0.9999)
    """Nesterov momentum of ``sgd``."""
    weight_decay: StrictFloat = Field(default=0.0, ge=0, le=1)
    """Of weights with ``adam``, decoupled from the gradient (AdamW); of everything that is tuned with ``sgd``."""
    temperature: StrictFloat = Field(default=1.0, ge=0.01, le=1000)
    """Of the softmax in the divergence that tuning minimises; the divergence is times its square."""
    kl_weight: Weight = 1.0
    """Weight of that divergence."""
    ce_weight: Weight = 0.0
    """Weight of the cross-entropy with the classes that the images were made for."""
    feature_weight: Weight = 30.0
    """Weight of the squared error of every batch norm's output, in units of its variance."""
    crop_eta: StrictFloat = Field(default=0.5, ge=0.01, le=1)
    """Smallest area fraction of the random crops that the network is tuned on; 1 shows the images whole."""
    mix: Literal["none", "mixup", "cutmix"] = "cutmix"
    """Mix each image with another one, at most half of it."""
    jitter: StrictFloat = Field(default=0.3, ge=0, le=2)
    """Standard deviation of the contrast's logarithm; two thirds of it that of the brightness, of what is tuned on."""
    holdout: StrictFloat = Field(default=0.125, ge=0, le=0.9)
    """Share of the synthetic images that tuning never sees; agreement with the teacher is measured on them."""
    precision: Precision = "auto"
    """As in synthesis."""
    compile: CompileSetting = "auto"
    """As in synthesis."""


SECTIONS = {"synthesis": Synthesis, "quantization": Quantization, "tuning": Tuning}
"""Tables of a recipe file, and what may stand in them."""


@dataclass(frozen=True, kw_only=True, config=CONFIG)
class Recipe:
    """All settings of one ``quantize`` run but the bits."""

    name: StrictStr = "default"
    description: StrictStr = ""
    synthesis: Synthesis = dataclasses.field(default_factory=Synthesis)
    quantization: Quantization = dataclasses.field(default_factory=Quantization)
    tuning: Tuning = dataclasses.field(default_factory=Tuning)

    @classmethod
    def from_dict(cls, data: dict[str, Any], name: str) -> Self:
        """Build from parsed TOML; what is absent keeps its default.

        Raises:
            RecipeError: an unknown table or key, a wrong type, a value out of range.
        """
        try:
            recipe = TypeAdapter(cls).validate_python(data)
        except ValidationError as error:
            found = [explain(one, SECTIONS) for one in error.errors(include_url=False)]
            raise RecipeError(*("; ".join(dict.fromkeys(texts)) for texts in zip(*found, strict=True))) from error
        return dataclasses.replace(recipe, name=name)

    def override(self, assignments: list[str]) -> Self:
        """Apply ``section.key=value`` texts (``--set``); values are TOML, bare words are strings.

        ``synthesis.losses.file.py:function=value`` sets a single one of that table.

        Raises:
            RecipeError: as :meth:`from_dict`, or a text that is no assignment.
        """
        data = self.to_dict()
        for text in assignments:
            key, equals, value = text.partition("=")
            section, dot, name = key.strip().partition(".")
            if not equals or not dot:
                raise RecipeError(f"--set {text}: not of the form section.key=value", "e.g. --set tuning.steps=200")
            if section not in SECTIONS:
                raise RecipeError(f"unknown recipe table {section!r} in --set {text}", f"tables: {', '.join(SECTIONS)}")
            table, dot, entry = name.partition(".")
            if dot and isinstance(data[section].get(table), dict):
                data[section][table][entry.strip("\"'")] = _parse_value(value.strip())
            else:
                data[section][name] = _parse_value(value.strip())
        return type(self).from_dict(data, self.name)

    def to_dict(self) -> dict[str, Any]:
        """The recipe in full, but for its name, as plain values."""
        return {key: value for key, value in dataclasses.asdict(self).items() if key != "name"}


def choose_placement(option: Placement | None, recipe: Recipe) -> Placement:
    """Placement of the activation quantizers: the option's if it was given, else the recipe's, else ``inputs``.

    Raises:
        RecipeError: the recipe does not go with the placement.
    """
    settings = recipe.quantization
    placement = option or settings.act_placement or "inputs"
    if placement == "integer" and (settings.weight_scale == "recomputed" or settings.activation_range == "ema"):
        raise RecipeError(
            f"placement integer does not go with recipe {recipe.name}: it has no scales yet to round biases by",
            "set quantization.weight_scale=learned and quantization.activation_range=mse, or choose another recipe",
        )
    return placement


def _parse_value(text: str) -> Any:
    import tomllib  # here, for a quick start

    try:
        return tomllib.loads(f"x = {text}")["x"]
    except (ValueError, RecursionError):
        return text
