"""A recipe: every setting of the method, declared once, checked before any work.

Recipes are TOML files with the tables ``[synthesis]``, ``[quantization]`` and ``[tuning]``; keys are the fields below.
"""

import dataclasses
import types
from dataclasses import dataclass, field
from typing import Any, Literal, Self, Union, get_args, get_origin, get_type_hints

from intraq_cli.errors import RecipeError

Placement = Literal["inputs", "activations"]
"""Of the activation quantizers: what enters every layer, or what leaves every ReLU-like activation."""
Precision = Literal["auto", "float32", "bfloat16"]
Compile = Literal["auto", True, False]

LARGEST = 10**9
"""Of a number that has no bound of its own."""


def _value(default: Any, low: float = -LARGEST, high: float = LARGEST) -> Any:
    return field(default=default, metadata={"low": low, "high": high})


@dataclass(frozen=True, kw_only=True)
class _Section:
    def __post_init__(self) -> None:
        hints = get_type_hints(type(self))
        for spec in dataclasses.fields(self):
            _check(f"{type(self).__name__.lower()}.{spec.name}", getattr(self, spec.name), hints[spec.name], spec)

    @classmethod
    def _parse(cls, table: dict[str, Any], base: Self) -> Self:
        known = {spec.name for spec in dataclasses.fields(cls)}
        section = cls.__name__.lower()
        for key in table:
            if key not in known:
                raise RecipeError(f"unknown recipe key {section}.{key}", _did_you_mean(key, known, section))
        values = {k: tuple(v) if isinstance(v, list) else v for k, v in table.items()}
        return dataclasses.replace(base, **values)


@dataclass(frozen=True, kw_only=True)
class Synthesis(_Section):
    """Stage 1: from noise to images. Defaults are the default recipe's."""

    num_images: int = _value(1024, 0, 10_000_000)
    """0: no images; ranges and corrections then come from batch-norm statistics, and there is nothing to tune on."""
    batch_size: int = _value(256, 2, 65536)
    steps: int = _value(100, 1, 1_000_000)
    space: Literal["spectrum", "pixels"] = "spectrum"
    """What is optimised: the images' ``pixels``, from white noise (published), or their Fourier coefficients."""
    lr: float = _value(0.1, 0.0, 100.0)
    """Adam's learning rate, in units of the normalised pixel, or of the noise that a spectrum begins with."""
    schedule: Literal["cosine", "plateau"] = "cosine"
    """``plateau``: the published one, times 0.1 after 50 steps without a better loss, down to 1e-4."""
    bns: Literal["scale-free", "paper"] = "scale-free"
    bns_weight: float = _value(3.0, 0.0)
    sil_weight: float = _value(1.0, 0.0)
    mdc_weight: float = _value(1.0, 0.0)
    lor_probability: float = _value(0.5, 0.0, 1.0)
    lor_coin: Literal["batch", "image"] = "image"
    eta: float = _value(0.5, 0.01, 1.0)
    lambda_lower: float = _value(0.05, 0.0, 2.0)
    lambda_upper: float = _value(0.8, 0.0, 2.0)
    epsilon: float = _value(0.9, 0.0, 1.0)
    labels: Literal["balanced", "uniform"] = "balanced"
    """``uniform``: drawn independently; ``balanced``: every class equally often, in random order."""
    clip: bool = True
    """Keep every pixel inside what a real image can have after normalisation."""
    precision: Precision = "auto"
    """``auto``: bfloat16 on CPUs that multiply it natively, float32 elsewhere; statistics, logits and losses always are
    float32."""
    compile: Compile = "auto"
    """By ``torch.compile``: less time a step, after minutes of compiling; needs a C++ compiler. ``auto``: on
    CPUs, where there is one and the run is so long that it pays."""


@dataclass(frozen=True, kw_only=True)
class Quantization(_Section):
    """Grids and where they come from."""

    weight_range: Literal["mse", "minmax"] = "mse"
    weight_rounding: Literal["nearest", "balanced", "curvature"] = "curvature"
    """What tuning starts from. ``nearest``: the weights as they are; the others: whole numbers.
    ``balanced``: the errors of a kernel and of a channel cancel (SQuant); ``curvature``: each column's error is made up
    for by those after it, by the inputs' second moments (GPTQ)."""
    weight_scale: Literal["learned", "refreshed"] = "learned"
    """``refreshed``: the range is taken anew from the weights at every step (published)."""
    activation_range: Literal["output", "mse", "ema"] = "output"
    """``mse``: least squared error; ``output``: that of the next layer's output; ``ema``: moving average of the minimum
    and maximum of ``ema_steps`` training batches (published)."""
    activation_scale: Literal["learned", "frozen"] = "learned"
    equalization: bool = True
    """Scale channels of activations to like ranges first, and the next weights back: the network computes the same."""
    correction: Literal["rescue", "always", "never"] = "rescue"
    """Correct batch norms' statistics, before tuning, for what quantization does to their inputs. ``rescue``: only of a
    network that is ruined without it, or that is not tuned; tuning ends better from the true statistics."""
    ema_beta: float = _value(0.9, 0.0, 0.9999)
    ema_steps: int = _value(800, 1)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.activation_range == "ema" and (self.weight_rounding == "curvature" or self.correction != "never"):
            raise RecipeError(
                "quantization.activation_range = ema takes the weights as they are",
                "set quantization.weight_rounding=nearest and quantization.correction=never too",
            )


@dataclass(frozen=True, kw_only=True)
class Tuning(_Section):
    """Stage 2: tuning the quantized network against its teacher."""

    steps: int = _value(800, 0, 10_000_000)
    batch_size: int = _value(128, 1, 65536)
    optimizer: Literal["adam", "sgd"] = "adam"
    lr: float = _value(0.005, 0.0, 10.0)
    """``adam`` with learned scales: in quantization steps, the same for every width and layer; ``sgd``: absolute."""
    schedule: Literal["cosine", "step"] = "cosine"
    lr_steps: tuple[int, ...] = ()
    """``step``: the learning rate is divided by ten after each of these steps."""
    momentum: float = _value(0.9, 0.0, 0.9999)
    """SGD's, Nesterov."""
    weight_decay: float = _value(0.0, 0.0, 1.0)
    temperature: float = _value(1.0, 0.01, 1000.0)
    kl_weight: float = _value(1.0, 0.0)
    ce_weight: float = _value(0.0, 0.0)
    feature_weight: float = _value(30.0, 0.0)
    """Of the squared error of every batch norm's output, in units of its variance."""
    crop_eta: float = _value(0.5, 0.01, 1.0)
    """Smallest area fraction of the random crops that the network is tuned on; 1 shows the images whole."""
    mix: Literal["none", "mixup", "cutmix"] = "cutmix"
    """Mix each image with another one, at most half of it."""
    jitter: float = _value(0.3, 0.0, 2.0)
    """Spread of the contrast (its logarithm) and, by two thirds, of the brightness of what is tuned on."""
    holdout: float = _value(0.125, 0.0, 0.9)
    """Share of the synthetic images that tuning never sees; agreement with the teacher is measured on them."""
    precision: Precision = "auto"
    """As in synthesis."""
    compile: Compile = "auto"
    """As in synthesis."""


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """All settings of one ``quantize`` run but the bits."""

    name: str = "default"
    description: str = ""
    synthesis: Synthesis = field(default_factory=Synthesis)
    quantization: Quantization = field(default_factory=Quantization)
    tuning: Tuning = field(default_factory=Tuning)

    @classmethod
    def from_dict(cls, data: dict[str, Any], name: str) -> Self:
        """Build from parsed TOML; what is absent keeps its default.

        Raises:
            RecipeError: an unknown table or key, a wrong type, a value out of range.
        """
        tables: dict[str, type[_Section]] = {"synthesis": Synthesis, "quantization": Quantization, "tuning": Tuning}
        for key, value in data.items():
            if key not in tables and key not in ("name", "description"):
                raise RecipeError(f"unknown recipe table [{key}]", _did_you_mean(key, tables))
            if not isinstance(value, dict if key in tables else str):
                raise RecipeError(f"{key} in the recipe must be {'a table' if key in tables else 'a string'}")
        base = cls()
        sections = {k: t._parse(data.get(k, {}), getattr(base, k)) for k, t in tables.items()}
        return cls(name=name, description=data.get("description", ""), **sections)  # type: ignore[arg-type]

    def override(self, assignments: list[str]) -> Self:
        """Apply ``section.key=value`` texts (``--set``); values are TOML, bare words are strings.

        Raises:
            RecipeError: as :meth:`from_dict`, or a text that is no assignment.
        """
        data = self.to_dict()
        for text in assignments:
            key, equals, value = text.partition("=")
            section, dot, name = key.strip().partition(".")
            if not equals or not dot:
                raise RecipeError(f"--set {text}: not of the form section.key=value", "e.g. --set tuning.steps=200")
            if section not in ("synthesis", "quantization", "tuning"):
                raise RecipeError(
                    f"unknown recipe table {section!r} in --set {text}", "tables: synthesis, quantization, tuning"
                )
            data[section][name] = _parse_value(value.strip())
        return type(self).from_dict(data, self.name)

    def to_dict(self) -> dict[str, Any]:
        """The recipe in full, as plain values."""
        data = dataclasses.asdict(self)
        return {k: v for k, v in data.items() if k != "name"}


def _parse_value(text: str) -> Any:
    import tomllib  # here, for a quick start

    try:
        return tomllib.loads(f"x = {text}")["x"]
    except (ValueError, RecursionError):
        return text


def _check(name: str, value: Any, hint: Any, spec: dataclasses.Field) -> None:
    if get_origin(hint) is Literal:
        if not any(type(value) is type(choice) and value == choice for choice in get_args(hint)):
            raise RecipeError(f"{name} is {_short(value)}", "must be one of " + ", ".join(map(_toml, get_args(hint))))
        return
    if get_origin(hint) is tuple:
        if not isinstance(value, tuple) or not all(type(v) is int and 0 <= v <= LARGEST for v in value):
            raise RecipeError(f"{name} is {_short(value)}", "must be a list of whole numbers")
        return
    if get_origin(hint) in (Union, types.UnionType):
        raise TypeError(f"{name}: no unions in recipes")
    fits = type(value) is hint or (hint is float and type(value) is int)
    if not fits:
        raise RecipeError(f"{name} is {_short(value)}", f"must be {_KINDS[hint]}")
    if not isinstance(value, (int, float)) or isinstance(value, bool):
        return
    low, high = (spec.metadata[end] for end in ("low", "high"))
    if not low <= value <= high:  # written so that NaN fails too
        raise RecipeError(f"{name} is {_short(value)}", f"must be {_interval(low, high)}")


def _toml(choice: str | bool) -> str:
    return choice if isinstance(choice, str) else str(choice).lower()


def _short(value: Any) -> str:
    try:
        text = repr(value)
    except ValueError:  # a whole number, given in hexadecimal, that is too long to be written
        return "too large"
    return text if len(text) <= 80 else text[:79] + "…"


_KINDS = {int: "a whole number", float: "a number", bool: "true or false", str: "a string"}


def _interval(low: float, high: float) -> str:
    return f"between {low:g} and {high:g}"


def _did_you_mean(key: str, known: Any, section: str = "") -> str:
    from difflib import get_close_matches

    prefix = f"{section}." if section else ""
    close = get_close_matches(key[:100], list(known), n=1)
    return (
        f"did you mean {prefix}{close[0]}?" if close else "known: " + ", ".join(f"{prefix}{k}" for k in sorted(known))
    )
