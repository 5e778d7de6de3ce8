"""The stages of ``synthesize`` and ``quantize``, and the job that all of them work on."""

import copy
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any

from torch import Tensor, fx

from intraq_cli.errors import ModelError
from intraq_cli.evaluation.fidelity import Fidelity, fidelity, is_clearly_worse
from intraq_cli.events import StageDone, StageStarted, Warned, silent
from intraq_cli.graph.nodes import draws_numbers, own_tensors
from intraq_cli.graph.proof import same_logits
from intraq_cli.jobs.quantized_model import QuantizedModel
from intraq_cli.jobs.without_images import WithoutImages
from intraq_cli.models.random_images import random_pixels
from intraq_cli.models.teacher import Captured, Teacher
from intraq_cli.quantization.calibration import CALIBRATION_IMAGES, calibrate
from intraq_cli.quantization.ema_ranges import warm_up
from intraq_cli.quantization.equalization import equalize, uncapped
from intraq_cli.quantization.integer_arithmetic import compute_on_integers
from intraq_cli.quantization.network import QuantizedNetwork
from intraq_cli.quantization.plan import Plan, form_of, layer_bits
from intraq_cli.quantization.quantizers import WeightQuantizer
from intraq_cli.quantization.ranges import clipped_pooled_values
from intraq_cli.recipe import Recipe
from intraq_cli.runtime.context import RunContext
from intraq_cli.runtime.device import batches_on_device, place, training_settings
from intraq_cli.runtime.distributed import process_group
from intraq_cli.runtime.launch import launched
from intraq_cli.runtime.micro_batches import MicroBatches, largest_micro_batch
from intraq_cli.runtime.resume import NO_STORE, resumable
from intraq_cli.runtime.torch_errors import deterministic_or_refused, out_of_memory
from intraq_cli.synthesis.synthesizer import synthesize_images
from intraq_cli.synthesis.tuning_images import TuningImages, hold_out
from intraq_cli.tuning.batches import AugmentedBatches
from intraq_cli.tuning.tuner import tune

EVALUATION_BATCH = 100


@dataclass(frozen=True)
class Job:
    """The common input of all stages; ``teacher`` is on the device of the ``context``."""

    teacher: Teacher
    captured: Captured
    recipe: Recipe
    context: RunContext

    @contextmanager
    def started(self, path: Path, identity: dict[str, Any], resume: bool) -> Iterator["Job"]:
        """Within the block, the processes of the job are connected, and the first one saves states for resuming.

        Args:
            path: path of the output; states are saved beside it.
            identity: what must be equal in a later run for it to resume from this run's states.
            resume: whether to resume from existing states.
        """
        identity = {**identity, "device": self.context.device.type, "processes": launched().size}
        first = launched().rank == 0
        report = self.context.report if first else silent
        with (
            training_settings(self.context.device, self.context.deterministic),
            deterministic_or_refused(),
            process_group(self.context.device) as ranks,
            resumable(path, identity, resume, report) if first else nullcontext(NO_STORE) as kept,
        ):
            yield replace(self, context=replace(self.context, ranks=ranks, store=kept, report=report))

    @out_of_memory()
    def synthesize(self) -> TuningImages:
        """Learn the images (stage 1).

        Raises:
            DeviceError: out of memory.
        """
        return synthesize_images(
            self.captured.graph,
            self.teacher.spec.input_size,
            self.captured.num_classes,
            self.teacher.spec.bounds,
            self.recipe.synthesis,
            self.context_of("synthesis"),
        )

    @out_of_memory()
    def quantize(self, plan: Plan, made: TuningImages | None) -> QuantizedModel:
        """Calibrate, tune (stage 2) and freeze.

        Raises:
            DeviceError: out of memory.
        """
        graph = self._prepared(plan)
        if made is None:
            return self._without_images(graph, plan)
        used, held_out = hold_out(made, self.recipe.tuning.holdout)
        done = self._by_images(graph, plan, used, held_out)
        if len(used.images) == len(made.images):  # agreement on images used for tuning would be too optimistic
            return replace(done, fidelity=Fidelity())
        return done

    def _by_images(self, graph: fx.GraphModule, plan: Plan, used: TuningImages, held_out: Tensor) -> QuantizedModel:
        """Calibrate on the images ``used``, tune on them if the recipe says so, and freeze."""
        student = self._calibrated(graph, plan, used)
        context = self.context_of("tuning")
        if not self.recipe.tuning.steps:
            return self._freeze(student, graph, held_out, {}, context)
        calibrated = self._freeze(copy.deepcopy(student), graph, held_out, {}, context)
        losses = tune(student, graph, used.images, used.labels, self.recipe.tuning, context)
        tuned = self._freeze(student, graph, held_out, losses, context)
        before, after = calibrated.fidelity, tuned.fidelity
        if not is_clearly_worse(after, before):
            return tuned
        figures = f"from {before.agreement:.1f} % to {after.agreement:.1f} %"
        context.report(Warned(f"tuning was discarded: it lowered agreement on held-out images {figures}"))
        return replace(calibrated, tuning_undone=True)

    def _prepared(self, plan: Plan) -> fx.GraphModule:
        """Return the teacher's graph in the form of the plan's placement, equalized if the recipe says so.

        Raises:
            ModelError: the converted graph does not compute the same as the teacher.
        """
        (pixels,) = batches_on_device([random_pixels(self.teacher.spec, 2)], self.context.device)
        ways = (True, False) if self.recipe.quantization.equalization else (False,)
        for equalized in ways:
            graph = self.captured.graph
            if equalized:
                graph = equalize(graph, layer_bits(form_of(graph, plan.placement), plan))
            made = form_of(graph, plan.placement)
            unchanged = made is self.captured.graph
            if unchanged or draws_numbers(made) or same_logits(self.teacher.network, made, pixels):
                return made
            if equalized:
                self.context.report(Warned("channels are not equalized: that would change what the network computes"))
        what = "folding the batch norms into the convolutions would change what the network computes"
        raise ModelError(what, "use --act-placement inputs")

    def _freeze(
        self,
        student: QuantizedNetwork,
        teacher: fx.GraphModule,
        held_out: Tensor,
        losses: dict[str, float],
        context: RunContext,
    ) -> QuantizedModel:
        """Freeze the student, tuned or not, and measure it on the held-out images."""
        stored = _frozen(student)
        network, device = self.teacher.logits, context.device
        follows = MicroBatches(context.micro_batch_size, context.report).run(
            lambda size: fidelity(student.graph, network, teacher, batches_on_device(held_out.split(size), device)),
            min(EVALUATION_BATCH, len(held_out)),
        )
        return QuantizedModel(student, stored, follows, losses)

    def _calibrated(
        self,
        teacher: fx.GraphModule,
        plan: Plan,
        used: TuningImages | None,
        pooled: Mapping[str, Tensor] | None = None,
    ) -> QuantizedNetwork:
        """Return the student with its first grids, from images or, if there are none, from batch-norm statistics."""
        self.context.store.began("calibration")
        seed, device, report = self.context.seed, self.context.device, self.context.report
        config, tuning = self.recipe.quantization, self.recipe.tuning
        report(StageStarted("calibration", 1, f"{len(plan.activations)} activations"))
        if used is not None and config.activation_range == "ema":
            # as published: the warm-up runs on tuning batches, with weights already quantized
            student = _student(teacher, plan)
            for name, weight in student.weights.items():
                student.set_weight(name, WeightQuantizer(weight(), plan.weights[name], config))
            batches = AugmentedBatches(used.images, used.labels, tuning.batch_size, tuning.crop_eta, seed)
            warm_up(student, batches_on_device((x for x, _ in islice(batches, config.ema_steps)), device), config)
        else:
            images = used.images[:CALIBRATION_IMAGES] if used else random_pixels(self.teacher.spec)
            student = self._calibrated_on(teacher, plan, images, used is None, pooled)
        place(student, device)
        report(StageDone("calibration", self.context.store.ended("calibration")))
        return student

    def _calibrated_on(
        self,
        teacher: fx.GraphModule,
        plan: Plan,
        images: Tensor,
        sampled: bool,
        pooled: Mapping[str, Tensor] | None,
    ) -> QuantizedNetwork:
        """Calibrate on ``images``, or on as many as fit into memory: every layer must process all of them at once."""
        spec, device = self.teacher.spec, self.context.device
        size = largest_micro_batch(self.captured.graph, spec.input_size, device, "calibration")
        if size is not None and size < len(images):
            self.context.report(
                Warned(f"calibrating on only {size} of {len(images)} images: more do not fit into memory")
            )

        def on_first(count: int) -> QuantizedNetwork:
            student = _student(teacher, plan)
            (first,) = batches_on_device([images[:count]], device)
            calibrate(student, teacher, first, self.recipe.quantization, sampled, pooled)
            return student

        return MicroBatches(size, self.context.report, "and calibrating only on these").run(on_first, len(images))

    def _without_images(self, graph: fx.GraphModule, plan: Plan) -> QuantizedModel:
        """Calibrate from batch-norm statistics or random images, as :class:`WithoutImages` chooses."""

        def made_by(
            plan: Plan, images: TuningImages | None, pooled: Mapping[str, Tensor] | None = None
        ) -> QuantizedModel:
            student = self._calibrated(graph, plan, images, pooled)
            return QuantizedModel(student, _frozen(student), Fidelity(), {})

        def unclipped(made: QuantizedModel, batches: Iterable[Tensor]) -> QuantizedModel:
            pooled = clipped_pooled_values(made.student, graph, batches)
            return made_by(plan, None, pooled) if pooled else made

        return WithoutImages(self.teacher, self.captured.graph, plan, self.context).better(made_by, unclipped)

    def context_of(self, stage: str) -> RunContext:
        """Return the context with a micro-batch size that fits into memory in a stage, unless one is given."""
        if self.context.micro_batch_size is not None:
            return self.context
        size = largest_micro_batch(self.captured.graph, self.teacher.spec.input_size, self.context.device, stage)
        return replace(self.context, micro_batch_size=size)


def _student(teacher: fx.GraphModule, plan: Plan) -> QuantizedNetwork:
    """Return the quantized network before calibration, with tensors of its own."""
    return QuantizedNetwork(own_tensors(uncapped(teacher)), plan).eval()


def _frozen(student: QuantizedNetwork) -> dict[str, tuple[Tensor, Tensor, Tensor]]:
    """Freeze the student, so that it computes like a loaded checkpoint, and return its weights as they are stored."""
    stored = student.freeze()
    compute_on_integers(student)
    return stored
