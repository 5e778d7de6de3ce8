"""Forecast of a job's time and memory, from two short trials of the job on few images."""

import math
import time
from dataclasses import dataclass, field, replace

from intraq_cli.choices import Compile
from intraq_cli.errors import IntraqError
from intraq_cli.events import Event, StageDone, StageStarted, StepDone, Warned
from intraq_cli.graph.layers import layers
from intraq_cli.jobs.pipeline import Job
from intraq_cli.quantization.calibration import CALIBRATION_IMAGES
from intraq_cli.quantization.plan import Plan
from intraq_cli.results import Forecast
from intraq_cli.runtime.compilation import mode_of
from intraq_cli.runtime.device import return_freed_memory, training_settings
from intraq_cli.runtime.launch import launched
from intraq_cli.runtime.memory import peak_memory, start_peak
from intraq_cli.runtime.torch_errors import out_of_memory
from intraq_cli.synthesis.synthesizer import batch_sizes
from intraq_cli.synthesis.tuning_images import TuningImages

FEW = 8
"""Images of the first trial."""
STEP = 2.0
"""Target seconds of a step in the second trial: long enough to be timed, and for data that exceeds the caches."""
STEPS = 4
"""Steps of each stage in a trial; the first one is a warm-up."""
COMPILING = 2.0
"""Seconds that ``torch.compile`` takes per layer, see :data:`intraq_cli.runtime.compilation.PAYS`."""
FASTER = {"synthesis": 1.3, "tuning": 1.6}
"""Speed-up of a compiled step: 1.1 to 1.7 times were measured on ResNet-20 and MobileNetV1."""


def forecast_cost(job: Job, plan: Plan | None, made: TuningImages | None, setup: float) -> Forecast | None:
    """Forecast time and memory of a job; return None if it has no steps to time, or runs in several processes.

    The job is run twice for a few steps, with few images and with more. Whatever depends on the number of images is
    assumed to grow linearly with it.

    Args:
        job: the job, not yet started.
        plan: the bits; None: the job ends after its images.
        made: the images, if the job does not synthesize them.
        setup: seconds of the setup so far; the job later loads its checkpoint once, which takes as long.
    """
    recipe = job.recipe
    if launched().size > 1 or not (made or recipe.synthesis.num_images):
        return None
    try:
        with training_settings(job.context.device, job.context.deterministic), out_of_memory():
            few = _trial(job, plan, made, FEW, FEW)
            second = [
                min(batch, max(2 * FEW, int(STEP * FEW / seconds))) if (seconds := few.step(stage)) else 2 * FEW
                for stage, batch in (("synthesis", recipe.synthesis.batch_size), ("tuning", recipe.tuning.batch_size))
            ]
            more = _trial(job, plan, made, *second)
    except IntraqError as error:
        job.context.report(Warned(f"time and memory cannot be estimated: {error.message}"))
        return None
    return _Count(job, made, few, more).result(setup if plan is None else 2 * setup)


@dataclass
class _Timed:
    """A stage of a trial, or the time outside all stages."""

    images: int
    """Images per step; all images if there are no steps."""
    step: float
    """Seconds per step."""
    around: float
    """Seconds outside the steps."""
    memory: int
    """Peak memory in bytes."""


@dataclass
class _Trial:
    batch: int
    """Images per tuning step, if there is tuning."""
    stages: dict[str, _Timed] = field(default_factory=dict)

    def step(self, stage: str) -> float:
        """Return the seconds per step; 0 if there were fewer than two steps."""
        return self.stages[stage].step if stage in self.stages else 0.0


def _trial(job: Job, plan: Plan | None, made: TuningImages | None, images: int, batch: int) -> _Trial:
    """Run the job on one batch of ``images`` images, with tuning on batches of ``batch`` images."""
    recipe, device, log = job.recipe, job.context.device, _Log(job)

    def unless_compiled(setting: Compile) -> Compile:
        """Disable compilation, which takes minutes. A GPU may record a graph: in the first step, which is not timed."""
        return "auto" if setting == "auto" and device.type == "cuda" else False

    synthesis, tuning = recipe.synthesis, recipe.tuning
    steps, how = min(STEPS, tuning.steps), unless_compiled(tuning.compile)
    one_batch = replace(synthesis, num_images=images, batch_size=images, steps=STEPS)
    quick = replace(
        recipe,
        synthesis=replace(one_batch, compile=unless_compiled(synthesis.compile)),
        quantization=replace(recipe.quantization, ema_steps=STEPS),
        tuning=replace(tuning, steps=steps, batch_size=batch, compile=how),
    )
    at_once = _at_once(job, images) if made is None else None
    context = replace(job.context, report=log.note, micro_batch_size=at_once)
    small = replace(job, recipe=quick, context=context)
    return_freed_memory()
    start_peak(device)
    started = time.perf_counter()
    made = small.synthesize() if made is None else made.select(slice(images))
    count = len(made.images)
    if plan is not None:
        small.quantize(plan, made)
    seconds, trial = time.perf_counter() - started, _Trial(batch)
    for stage, in_step in (("synthesis", images), ("calibration", count), ("tuning", batch)):
        if stage in log.times:
            trial.stages[stage] = log.timed(stage, in_step)
    inside = sum(log.times[stage][-1][0] - log.times[stage][0][0] for stage in log.times)
    trial.stages["rest"] = _Timed(count, 0.0, max(0.0, seconds - inside), peak_memory(device))
    return trial


def _at_once(job: Job, images: int) -> int | None:
    """Return the micro-batch size of a trial's synthesis: half of its images if the job uses several micro-batches."""
    batch = batch_sizes(job.recipe.synthesis.num_images, job.recipe.synthesis.batch_size)[0]
    return -(-images // 2) if _fitting(job, "synthesis", batch) < batch else job.context.micro_batch_size


def _fitting(job: Job, stage: str, batch: int) -> int:
    """Return the micro-batch size of the job itself."""
    return min(job.context_of(stage).micro_batch_size or batch, batch)


class _Log:
    """The times of a trial's events, and the peak memory of its stages."""

    def __init__(self, job: Job) -> None:
        self.device = job.context.device
        self.times: dict[str, list[tuple[float, int]]] = {}
        self.memory: dict[str, int] = {}

    def note(self, event: Event) -> None:
        """Record an event. Warnings are dropped: the job itself will repeat them."""
        now = time.perf_counter()
        match event:
            case StageStarted():
                self.times[event.stage] = [(now, 0)]
                start_peak(self.device)
            case StepDone():
                self.times[event.stage].append((now, event.step))
            case StageDone():
                self.times[event.stage].append((now, 0))
                self.memory[event.stage] = peak_memory(self.device)

    def timed(self, stage: str, images: int) -> _Timed:
        """Return the times and the memory of a finished stage."""
        (begun, _), *steps, (ended, _) = self.times[stage]
        if len(steps) < 2 or steps[-1][1] == steps[0][1]:
            return _Timed(images, 0.0, ended - begun, self.memory[stage])
        step = (steps[-1][0] - steps[0][0]) / (steps[-1][1] - steps[0][1])
        return _Timed(images, step, max(0.0, ended - begun - step * steps[-1][1]), self.memory[stage])


def _line(x: float, first: tuple[float, float], second: tuple[float, float]) -> float:
    """Evaluate at ``x`` the straight line through two points; its slope and its value at 0 are never negative."""
    (x1, y1), (x2, y2) = first, second
    if x2 <= x1 or y2 <= y1:
        return y2
    slope = min((y2 - y1) / (x2 - x1), y2 / x2)
    return y2 + slope * (x - x2)


class _Count:
    """Extrapolation from two trials to the whole job."""

    def __init__(self, job: Job, made: TuningImages | None, few: _Trial, more: _Trial) -> None:
        self.job, self.trials = job, (few, more)
        self.images = len(made.images) if made else job.recipe.synthesis.num_images

    def at(self, stage: str, what: str, images: float) -> float:
        """Return one measure of a stage, such as ``step``, extrapolated to ``images`` images."""
        first, second = (trial.stages[stage] for trial in self.trials)
        return _line(images, (first.images, getattr(first, what)), (second.images, getattr(second, what)))

    def result(self, setup: float) -> Forecast:
        """Return the seconds of each stage and of the whole job, and the largest memory of any stage."""
        recipe, tried = self.job.recipe, self.trials[0].stages
        stages: dict[str, float] = {}
        at_once: dict[str, float] = {}
        if "synthesis" in tried:
            sizes = batch_sizes(self.images, recipe.synthesis.batch_size)
            steps, config = len(sizes) * recipe.synthesis.steps, recipe.synthesis
            around = len(sizes) * self.at("synthesis", "around", sizes[0])
            stages["synthesis"] = around + self._steps("synthesis", steps, sizes[0], config.compile)
            at_once["synthesis"] = _fitting(self.job, "synthesis", sizes[0])
        if "calibration" in tried:
            stages["calibration"], at_once["calibration"] = self._calibration()
        if "tuning" in tried:
            batch, tuning = recipe.tuning.batch_size, recipe.tuning
            stages["tuning"] = self.at("tuning", "around", batch)
            stages["tuning"] += self._steps("tuning", tuning.steps, batch, tuning.compile)
            at_once["tuning"] = _fitting(self.job, "tuning", batch)
        seconds = sum(stages.values()) + self.at("rest", "around", self.images) + setup
        memory = max(self.at(stage, "memory", images) for stage, images in at_once.items())
        kept = 2 * self.images * math.prod(self.job.teacher.spec.input_size)  # float16
        return Forecast(seconds, stages, int(memory) + kept if memory else None)

    def _steps(self, stage: str, steps: int, images: int, setting: Compile) -> float:
        """Return the seconds of ``steps`` steps with ``images`` images each."""
        seconds, graph = steps * self.at(stage, "step", images), self.job.captured.graph
        if mode_of(setting, graph, self.job.context.device, steps * images) == "compiled":
            seconds = COMPILING * len(layers(graph)) + seconds / FASTER[stage]
        return seconds

    def _calibration(self) -> tuple[float, float]:
        """Return its seconds, and its micro-batch size, counted as in :func:`_trial`: including held-out images."""
        recipe = self.job.recipe
        if recipe.quantization.activation_range == "ema":  # the warm-up uses batches of tuning's size
            first, second = ((trial.batch, trial.stages["calibration"].around / STEPS) for trial in self.trials)
            return recipe.quantization.ema_steps * _line(recipe.tuning.batch_size, first, second), 0.0
        used = round(min(self.images, CALIBRATION_IMAGES / (1 - recipe.tuning.holdout)))
        images = _fitting(self.job, "calibration", used)
        return self.at("calibration", "around", images), images
