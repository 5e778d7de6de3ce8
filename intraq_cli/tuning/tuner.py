"""Stage 2: tune the quantized network on images so that its logits match its teacher's."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, fx, nn

from intraq_cli.errors import CollapsedError, DivergedError, NotFiniteError, check_finite
from intraq_cli.events import StageDone, StageStarted, StepDone, Warned
from intraq_cli.graph.batch_norms import normalized_outputs
from intraq_cli.graph.cpu_kernels import slice_strided_pointwise
from intraq_cli.graph.fold import fold_batch_norms
from intraq_cli.graph.outputs import add_batch_norm_outputs, compare_batch_norm_outputs
from intraq_cli.quantization.network import QuantizedNetwork
from intraq_cli.recipe import Tuning
from intraq_cli.runtime.autocast import in_precision
from intraq_cli.runtime.compilation import Accelerated, mode_of
from intraq_cli.runtime.context import DEFAULT_CONTEXT, RunContext
from intraq_cli.runtime.micro_batches import MicroBatches
from intraq_cli.tuning.batches import AugmentedBatches, jitter, mix
from intraq_cli.tuning.distillation import Output, TuningLosses, distillation_loss, feature_distance, ignorance
from intraq_cli.tuning.optimizer import make_optimizer, make_scheduler

REPORT_EVERY = 10
ATTEMPTS = 3
"""Number of attempts if losses are not finite or the network collapses; each has a quarter of the learning rate."""
COLLAPSED, SOUND = 0.75, 0.5
"""Thresholds of the divergence, relative to :func:`ignorance`: above the first the network has collapsed, below the
second it is sound."""
PATIENCE = 3
"""Number of consecutive reports above the threshold that count as a collapse."""

Outputs = tuple[Tensor, Tensor, list[Tensor]]
"""Logits ``(B, K)`` of student and teacher on a batch, and the distance between both networks' outputs of each batch
norm, ``()`` each; no distances if the loss does not use them."""


@torch.enable_grad()
def tune(
    student: QuantizedNetwork,
    teacher: fx.GraphModule,
    images: Tensor,
    labels: Tensor,
    config: Tuning,
    context: RunContext = DEFAULT_CONTEXT,
) -> dict[str, float]:
    """Tune ``student`` in place; returns the losses averaged over the last tenth of the steps.

    Args:
        student: calibrated, with weight quantizers, on the device of ``context``.
        teacher: the graph that ``student`` was made from, on the same device.
        images: ``(N, C, H, W)``, normalised.
        labels: ``(N,)``.
        config: the recipe's tuning section.
        context: every batch is split among its processes.

    Raises:
        DivergedError: the losses are not finite, even at the lowest learning rate tried.
    """
    report = context.report
    context.store.began("tuning")
    report(StageStarted("tuning", config.steps, f"{len(images)} images"))
    context.ranks.broadcast(list(student.state_dict().values()))
    start = {key: value.clone() for key, value in student.state_dict().items()}
    state = context.ranks.broadcast_object(context.store.load("tuning"))
    attempt = state["attempt"] if state else 0
    while True:
        gentler = replace(config, lr=config.lr / 4**attempt)
        run = _Run(student, teacher, images, labels, gentler, context)
        try:
            losses = run.through(attempt, state)
        except (NotFiniteError, CollapsedError) as error:
            state = None
            student.load_state_dict(start)
            attempt += 1
            infinite = "the losses of tuning are not finite"
            if attempt == ATTEMPTS:  # here the losses are not finite: collapse is not checked in the last attempt
                raise DivergedError(
                    f"{infinite}, even at a learning rate of {gentler.lr:g}",
                    f"lower it (--set tuning.lr={gentler.lr / 4:.1g}), or skip tuning (--set tuning.steps=0)",
                ) from error
            what = "tuning reduced the network to chance level" if isinstance(error, CollapsedError) else infinite
            report(Warned(f"{what} at a learning rate of {gentler.lr:g}: retrying at a quarter of it"))
        else:
            report(StageDone("tuning", context.store.ended("tuning")))
            return losses


class _Run:
    """One attempt at tuning, through all steps."""

    def __init__(
        self,
        student: QuantizedNetwork,
        teacher: fx.GraphModule,
        images: Tensor,
        labels: Tensor,
        config: Tuning,
        context: RunContext,
    ) -> None:
        seed, device, report = context.seed, context.device, context.report
        self.student, self.config, self.context = student, config, context
        self.micro_batches = MicroBatches(context.micro_batch_size, report)
        pair = _Pair(student.graph, teacher, config, device)
        image_steps = config.steps * config.batch_size // context.ranks.size
        self.outputs = Accelerated(pair, mode_of(config.compile, teacher, device, image_steps), device, report)
        self.batches = AugmentedBatches(images, labels, config.batch_size, config.crop_eta, seed, device)
        self.mixing = torch.Generator().manual_seed(seed + 1)
        low, high = (f((0, 2, 3)).float()[:, None, None].to(device) for f in (images.amin, images.amax))
        self.bounds = low, high
        self.optimizer = make_optimizer(student, config)
        self.scheduler = make_scheduler(self.optimizer, config)
        self.tuned: list[Tensor] = [p for group in self.optimizer.param_groups for p in group["params"]]
        self.tail: list[Tensor] = []
        self.collapse = _Collapse()

    def through(self, attempt: int, state: dict[str, Any] | None) -> dict[str, float]:
        """Do all steps, from the first, or from the ``state`` of an interrupted run; returns the mean losses."""
        steps, store = self.config.steps, self.context.store
        first = self._load_state(state) if state else 0
        for parameter in self.tuned:
            parameter.requires_grad_(True)
        for step in range(first, steps):
            losses = self._step()
            if step >= min(0.9 * steps, steps - 1):
                self.tail.append(losses[:-1])
            if step % REPORT_EVERY == 0 or step == steps - 1:
                *of_batch, of_nothing = losses.tolist()
                values = dict(zip(TuningLosses._fields, of_batch, strict=True))
                check_finite(values)
                if attempt < ATTEMPTS - 1:
                    self.collapse.check(values["kl"], of_nothing)
                self.context.report(StepDone("tuning", step + 1, (step + 1) * self.config.batch_size, values=values))
            store.save_periodically("tuning", lambda step=step: {"attempt": attempt, **self._state(step + 1)})  # type: ignore[misc]
        for parameter in self.tuned:
            parameter.requires_grad_(False)
        return dict(zip(TuningLosses._fields, torch.stack(self.tail).mean(0).tolist(), strict=True))

    def _step(self) -> Tensor:
        """Do one step; returns the losses, as :class:`TuningLosses`, and :func:`ignorance`, detached."""
        x, y = next(self.batches)
        x = jitter(mix(x, self.config, self.mixing), self.config.jitter, self.bounds, self.mixing)
        ranks = self.context.ranks
        own = slice(ranks.rank, None, ranks.size)
        share = len(y[own]) / len(y)
        x, y = x[own].contiguous(memory_format=torch.channels_last), y[own]
        losses = share * self.micro_batches.run(lambda size: self._at_once(x, y, size, share), len(x))
        ranks.all_reduce([losses, *(p.grad for p in self.tuned if p.grad is not None)])
        self.optimizer.step()
        self.scheduler.step()
        return losses

    def _at_once(self, x: Tensor, y: Tensor, size: int, share: float) -> Tensor:
        if size < len(x) and x.is_cuda:  # a CUDA graph overwrites the gradients of its previous run
            return self._accumulate(self.outputs.function, x, y, size, share)
        return self.outputs.run(lambda outputs: self._accumulate(outputs, x, y, size, share))

    def _accumulate(
        self, outputs: Callable[[Tensor], Outputs], x: Tensor, y: Tensor, size: int, share: float
    ) -> Tensor:
        """Accumulate gradients of this rank's share of a batch, ``size`` images at once; returns losses, ignorance."""
        self.optimizer.zero_grad()
        total = torch.zeros(len(TuningLosses._fields) + 1, device=x.device)
        for images, labels in zip(x.split(size), y.split(size), strict=True):
            logits, wanted, distances = outputs(images)
            losses = distillation_loss(logits, wanted, labels, distances, self.config)
            weight = len(images) / len(x)
            (share * weight * losses.total).backward()
            total += weight * torch.stack([*losses, ignorance(wanted, self.config.temperature)]).detach()
        return total

    def _state(self, step: int) -> dict[str, Any]:
        return {
            "step": step,
            "student": self.student.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "scheduler": self.scheduler.state_dict(),
            "batches": self.batches.state(),
            "mixing": self.mixing.get_state(),
            "tail": self.tail,
            "collapse": vars(self.collapse),
        }

    def _load_state(self, state: dict[str, Any]) -> int:
        """Resume from a :meth:`_state`; returns the next step."""
        self.student.load_state_dict(state["student"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.scheduler.load_state_dict(state["scheduler"])
        self.batches.load_state(state["batches"])
        self.mixing.set_state(state["mixing"])
        self.tail = [losses.to(self.context.device) for losses in state["tail"]]
        vars(self.collapse).update(state["collapse"])
        return int(state["step"])


class _Collapse:
    """Detects a network that collapses because the learning rate is too high."""

    def __init__(self) -> None:
        self.sound: bool | None = None
        """Whether the network was sound at the first report: only a sound network can collapse."""
        self.reports = 0
        """Number of consecutive reports above the threshold."""

    def check(self, kl: float, of_nothing: float) -> None:
        """Check a batch's divergence from the teacher against ``of_nothing``, that of :func:`ignorance`.

        Raises:
            CollapsedError: a sound network was above the threshold for :data:`PATIENCE` consecutive reports.
        """
        if self.sound is None:
            self.sound = kl < SOUND * of_nothing
        self.reports = self.reports + 1 if self.sound and kl > COLLAPSED * of_nothing else 0
        if self.reports == PATIENCE:
            raise CollapsedError(f"a divergence of {kl:.3g} from the float network: no better than chance")


class _Pair(nn.Module):
    """Student and teacher side by side, as in a training step: batch norms folded, in the recipe's precision."""

    def __init__(
        self, student: fx.GraphModule, teacher: fx.GraphModule, config: Tuning, device: torch.device | str
    ) -> None:
        super().__init__()
        self.compares = bool(config.feature_weight)
        self.variances = [output.variance for output in normalized_outputs(teacher)] if self.compares else []
        if self.compares:
            student = compare_batch_norm_outputs(student, feature_distance)
            teacher = add_batch_norm_outputs(teacher)
        student = slice_strided_pointwise(fold_batch_norms(student))
        self.student = in_precision(student, config.precision, device)
        self.teacher = in_precision(fold_batch_norms(teacher), config.precision, device)

    def forward(self, images: Tensor) -> Outputs:
        """Run both networks on images ``(B, C, H, W)``."""
        with torch.no_grad():
            made = self.teacher(images)
        if not self.compares:
            return self.student(images), made, []
        wanted, values = made
        expected = [Output(value, variance) for value, variance in zip(values, self.variances, strict=True)]
        logits, distances = self.student(images, expected)
        return logits, wanted, distances
