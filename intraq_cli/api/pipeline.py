"""What ``synthesize`` and ``quantize`` do: their stages one after the other, each with what all of them are given."""

import copy
import math
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, fx

from intraq_cli.errors import ModelError
from intraq_cli.evaluation.fidelity import Fidelity, fidelity, is_clearly_worse
from intraq_cli.events import StageDone, StageStarted, Warned, silent
from intraq_cli.graph.nodes import draws_numbers, own_tensors
from intraq_cli.graph.proof import relative_error, same_answers
from intraq_cli.models.random_images import random_pixels
from intraq_cli.models.teacher import Anatomy, Teacher
from intraq_cli.quantization.calibration import calibrate, forget_grids
from intraq_cli.quantization.ema_ranges import warm_up
from intraq_cli.quantization.equalization import equalize, uncapped
from intraq_cli.quantization.integer_arithmetic import compute_on_integers
from intraq_cli.quantization.network import QuantizedNetwork
from intraq_cli.quantization.plan import Plan, form_of, layer_bits
from intraq_cli.quantization.quantizers import WeightQuantizer
from intraq_cli.recipe import Recipe
from intraq_cli.runtime.context import RunContext
from intraq_cli.runtime.device import place, tuned_allocator
from intraq_cli.runtime.distributed import launched_processes, process_group
from intraq_cli.runtime.micro_batches import MicroBatches, largest_micro_batch
from intraq_cli.runtime.refusals import deterministic_or_refused, out_of_memory
from intraq_cli.runtime.resume import NO_STORE, resumable
from intraq_cli.synthesis.given_pictures import choose_pictures
from intraq_cli.synthesis.synthesizer import synthesize_images
from intraq_cli.synthesis.tuning_images import TuningImages, hold_out
from intraq_cli.tuning.batches import AugmentedBatches
from intraq_cli.tuning.tuner import tune

CALIBRATION_IMAGES = 128
EVALUATION_BATCH = 100
FEW = 16
"""Images at once where time does not matter."""
RUINED = 1.0
"""Relative error of logits from which on a constant would be as good an answer."""
BLOWN_UP = 10.0
"""Relative error of logits on random images of any kind from which on images unlike those of training ruin a network:
on networks trained on photographs it was at most 0.2 at W8A8."""
DOUBTFUL = 0.08
"""Relative error of logits on random images from which on what batch norms promise is doubted."""
CONTRADICTED = 2.2
"""How much less it must be with ranges of these images to go by them: on networks trained on photographs, where
promises hold, it was at most 2.0 times less."""
CANDIDATES = 512
"""Random images of which the nearest to batch norms' statistics are taken."""
COMPARED = 64
"""Of the nearest, those that promises and ranges of the others are compared on."""
WEAK = 0.3
"""Relative error of logits on random images from which on a way to a better network is told."""


@dataclass(frozen=True)
class Made:
    """The end of ``quantize``, before anything is written."""

    student: QuantizedNetwork
    stored: dict[str, tuple[Tensor, Tensor, Tensor]]
    """What a checkpoint stores of its weights: codes, scale and zero-point by layer."""
    fidelity: Fidelity
    losses: dict[str, float]
    """Of tuning, at its end; empty without."""
    logits_error: float = math.nan
    """Without images: relative to the spread of the float network's logits, on random images."""
    random_images: bool = False
    """Whether it was calibrated on such, as what batch norms promise does not hold."""


@dataclass(frozen=True)
class Job:
    """What the stages are given; ``teacher`` is on the device of the ``context``."""

    teacher: Teacher
    anatomy: Anatomy
    recipe: Recipe
    context: RunContext

    @contextmanager
    def started(self, path: Path, identity: dict[str, Any], resume: bool) -> Iterator["Job"]:
        """Within the block, the processes of the job know each other, and the first one keeps what is done.

        Args:
            path: of the output; states are kept beside it.
            identity: what a later run must have in common with this one to go on from its states.
            resume: whether to go on from states that are there.
        """
        identity = {**identity, "device": self.context.device.type, "processes": launched_processes().size}
        first = launched_processes().rank == 0
        report = self.context.report if first else silent
        with (
            tuned_allocator(self.context.device, self.context.deterministic),
            deterministic_or_refused(),
            process_group(self.context.device) as ranks,
            resumable(path, identity, resume, report) if first else nullcontext(NO_STORE) as kept,
        ):
            yield replace(self, context=replace(self.context, ranks=ranks, kept=kept, report=report))

    def synthesize(self) -> TuningImages:
        """Stage 1.

        Raises:
            DeviceError: out of memory.
        """
        with out_of_memory():
            return synthesize_images(
                self.anatomy.graph,
                self.teacher.spec.input_size,
                self.anatomy.num_classes,
                self.teacher.spec.bounds,
                self.recipe.synthesis,
                self._context_of("synthesis"),
            )

    def quantize(self, plan: Plan, made: TuningImages | None) -> Made:
        """Calibrate, tune (stage 2) and freeze.

        Raises:
            DeviceError: out of memory.
        """
        with out_of_memory():
            return self._quantize(plan, made)

    def _quantize(self, plan: Plan, made: TuningImages | None) -> Made:
        graph = self._prepared(plan)
        if made is None:
            return self._without_images(graph, plan)
        student = QuantizedNetwork(own_tensors(uncapped(graph)), plan).eval()
        used, held_out = hold_out(made, self.recipe.tuning.holdout)
        done = self._by_images(student, graph, used, held_out)
        if len(used.images) == len(made.images):  # agreement on images that were used would say too much
            return replace(done, fidelity=Fidelity())
        return done

    def _by_images(
        self, student: QuantizedNetwork, graph: fx.GraphModule, used: TuningImages, held_out: Tensor
    ) -> Made:
        """Calibrated, and tuned if the recipe says so, on the images ``used``."""
        self._calibrate(student, graph, used)
        context = self._context_of("tuning")
        if not self.recipe.tuning.steps:
            return self._freeze(student, graph, held_out, {}, context)
        calibrated = self._freeze(copy.deepcopy(student), graph, held_out, {}, context)
        losses = tune(student, graph, used.images, used.labels, self.recipe.tuning, context)
        tuned = self._freeze(student, graph, held_out, losses, context)
        before, after = calibrated.fidelity, tuned.fidelity
        if not is_clearly_worse(after, before):
            return tuned
        figures = f"{before.agreement:.1f} % before it, {after.agreement:.1f} % after"
        context.report(Warned(f"tuning is undone: agreement on images held out from it was {figures}"))
        return calibrated

    def _prepared(self, plan: Plan) -> fx.GraphModule:
        """The teacher's graph in the form of the plan's placement, with equalized channels if the recipe asks for that.

        Raises:
            ModelError: that form does not compute the same.
        """
        (pixels,) = _on_device([random_pixels(self.teacher.spec, 2)], self.context.device)
        ways = (True, False) if self.recipe.quantization.equalization else (False,)
        for equalized in ways:
            graph = self.anatomy.graph
            if equalized:
                graph = equalize(graph, layer_bits(form_of(graph, plan.placement), plan))
            made = form_of(graph, plan.placement)
            unchanged = made is self.anatomy.graph
            if unchanged or draws_numbers(made) or same_answers(self.teacher.network, made, pixels):
                return made
            if equalized:
                self.context.report(Warned("channels are not equalized: the network would not compute the same"))
        raise ModelError("the network would not compute the same with its batch norms in its convolutions")

    def _freeze(
        self,
        student: QuantizedNetwork,
        teacher: fx.GraphModule,
        held_out: Tensor,
        losses: dict[str, float],
        context: RunContext,
    ) -> Made:
        """The end, tuned or not."""
        stored = _frozen(student)
        network, device = self.teacher.logits, context.device
        follows = MicroBatches(context.micro_batch_size, context.report).run(
            lambda size: fidelity(student.graph, network, teacher, _on_device(held_out.split(size), device)),
            min(EVALUATION_BATCH, len(held_out)),
        )
        return Made(student, stored, follows, losses)

    def _calibrate(
        self, student: QuantizedNetwork, teacher: fx.GraphModule, used: TuningImages | None, by_promises: bool = False
    ) -> None:
        """Give the student its first grids: by images, random ones for want of others, or by batch norms' promises."""
        self.context.kept.began("calibration")
        seed, device, report = self.context.seed, self.context.device, self.context.report
        config, tuning = self.recipe.quantization, self.recipe.tuning
        report(StageStarted("calibration", 1, f"{len(student.plan.activations)} activations"))
        if used is not None and config.activation_range == "ema":
            # published: the warm-up runs on what tuning runs on, the weights already quantized
            for name, weight in student.weights.items():
                student.set_weight(name, WeightQuantizer(weight(), student.plan.weights[name], config))
            batches = AugmentedBatches(used.images, used.labels, tuning.batch_size, tuning.crop_eta, seed)
            warm_up(student, _on_device((x for x, _ in islice(batches, config.ema_steps)), device), config)
        else:
            images = used.images[:CALIBRATION_IMAGES] if used else random_pixels(self.teacher.spec)
            self._calibrate_on(student, teacher, images, by_promises)
        place(student, device)
        report(StageDone("calibration", self.context.kept.ended("calibration")))

    def _calibrate_on(self, student: QuantizedNetwork, teacher: fx.GraphModule, images: Tensor, sampled: bool) -> None:
        """On ``images``, or on as many of them as fit into memory: every layer must see all of them."""
        weights, before = dict(student.weights), {key: value.clone() for key, value in student.state_dict().items()}
        spec, device = self.teacher.spec, self.context.device
        size = largest_micro_batch(self.anatomy.graph, spec.input_size, device, "calibration")
        if size is not None and size < len(images):
            self.context.report(Warned(f"calibrated on {size} of {len(images)} images: memory holds no more"))

        def on_first(count: int) -> None:
            forget_grids(student, weights)
            student.load_state_dict(before)
            (first,) = _on_device([images[:count]], device)
            calibrate(student, teacher, first, self.recipe.quantization, sampled=sampled)

        MicroBatches(size, self.context.report, "calibrated on them alone").run(on_first, len(images))

    def _without_images(self, graph: fx.GraphModule, plan: Plan) -> Made:
        """By what batch norms promise; by random images where these contradict it.

        A network that normalises by its own image, or calls one part twice, may put out what no batch norm tells of.
        Of random images those count whose own statistics are the nearest to what batch norms saw in training.
        """

        def made_by(images: TuningImages | None) -> Made:
            student = QuantizedNetwork(own_tensors(uncapped(graph)), plan).eval()
            self._calibrate(student, graph, images, by_promises=images is None)
            return Made(student, _frozen(student), Fidelity(), {})

        spec, report, teacher = self.teacher.spec, self.context.report, self.teacher.logits
        made, images = made_by(images=None), random_pixels(spec)
        error = on_any = relative_error(self._logits(teacher, images), self._logits(made.student, images))
        if error > DOUBTFUL:
            few_at_once = (random_pixels(spec, FEW, seed) for seed in range(CANDIDATES // FEW))
            candidates = _on_device(few_at_once, self.context.device)
            nearest = choose_pictures(self.anatomy.graph, candidates, CALIBRATION_IMAGES + COMPARED, self.context.seed)
            unseen = nearest.images[CALIBRATION_IMAGES:]
            wanted = self._logits(teacher, unseen)
            error = relative_error(wanted, self._logits(made.student, unseen))
        if error > DOUBTFUL:
            other = made_by(nearest.select(slice(CALIBRATION_IMAGES)))
            otherwise = relative_error(wanted, self._logits(other.student, unseen))
            if error > CONTRADICTED * otherwise:
                off = f"logits off by {otherwise:.2f} of their spread on them, by {error:.2f} with theirs"
                what = "batch-norm statistics do not fit this network: ranges are taken from random images instead"
                report(Warned(f"{what} ({off}); try it on images of your own (evaluate, or quantize --images)"))
                made, error = replace(other, random_images=True), otherwise
        if not error <= RUINED:
            off = f"on random images the logits are off by {error:.1f} times their spread"
            report(Warned(f"{off}: this network may be ruined"))
        elif not on_any <= BLOWN_UP:
            off = f"on some random images the logits are off by {on_any:.0f} times their spread"
            report(Warned(f"{off}: images unlike those of training may ruin it, try it on images of your own"))
        elif error > WEAK:
            off = f"on random images the logits are off by {error:.2f} of their spread"
            report(Warned(f"{off}: --recipe calibrated or default, which learn images, or more bits do better"))
        return replace(made, logits_error=error)

    @torch.no_grad()
    def _logits(self, network: Callable[[Tensor], Tensor], images: Tensor) -> Tensor:
        return torch.cat([network(x) for x in _on_device(images.split(FEW), self.context.device)])

    def _context_of(self, stage: str) -> RunContext:
        """With the number of images that fit into memory at once in a stage, where none is given."""
        if self.context.micro_batch_size is not None:
            return self.context
        size = largest_micro_batch(self.anatomy.graph, self.teacher.spec.input_size, self.context.device, stage)
        return replace(self.context, micro_batch_size=size)


def _frozen(student: QuantizedNetwork) -> dict[str, tuple[Tensor, Tensor, Tensor]]:
    """End the tuning, and compute as a loaded checkpoint does; returns what is stored of the weights."""
    stored = student.freeze()
    compute_on_integers(student)
    return stored


def _on_device(batches: Iterable[Tensor], device: torch.device) -> Iterator[Tensor]:
    for batch in batches:
        # not in channels-last: the network's own code may look at them as they lie in memory
        yield batch.to(device, torch.float32, memory_format=torch.contiguous_format)
