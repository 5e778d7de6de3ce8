"""One run of ``quantize`` after all arguments are checked: a forecast, or the run itself, which writes a folder."""

import hashlib
import json
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError

from intraq_cli.checkpoint.run_manifest import read_run
from intraq_cli.errors import CheckpointError
from intraq_cli.events import Event, Noted, Report, StageDone
from intraq_cli.jobs.bit_budget import BitChoice, Chosen, chosen_bits
from intraq_cli.jobs.checkpoint_folder import Finished, write_folder
from intraq_cli.jobs.forecast import forecast_cost
from intraq_cli.jobs.given_images import digest_of_images
from intraq_cli.jobs.inspection import inspected
from intraq_cli.jobs.manifest import manifest, origin_of
from intraq_cli.jobs.pipeline import Job
from intraq_cli.jobs.quantized_model import QuantizedModel
from intraq_cli.models.source import Source
from intraq_cli.quantization.inspection import mean_bits
from intraq_cli.quantization.plan import Plan
from intraq_cli.reports.one import has_mixed_bits
from intraq_cli.results import FrontierPoint, InspectionResult, QuantizationResult
from intraq_cli.runtime.launch import launched
from intraq_cli.runtime.metrics import Metrics
from intraq_cli.synthesis.tuning_images import TuningImages
from intraq_cli.words import some_of, spelled_path

FIGURES = (
    "stages", "seconds", "losses", "bytes_quantized", "agreement", "kl", "sqnr", "held_out", "heterogeneity",
    "pictures", "logits_error", "random_images", "tuning_undone",
)  # fmt: skip
"""Fields of a result that a manifest stores under the same name."""


@dataclass(frozen=True)
class QuantizationRun:
    """The input of one run.

    Args:
        job: the teacher, the recipe, and how steps run.
        source: how the user named the teacher.
        choice: the choice of bits for every layer.
        given: images that the user gave instead of those of stage 1.
        path: path of the checkpoint folder.
        started: start of the call, in seconds of :func:`time.perf_counter`.
        stages: seconds of each finished stage, filled in during the run, see :func:`timing`.
    """

    job: Job
    source: Source
    choice: BitChoice
    given: TuningImages | None
    path: Path
    started: float
    stages: dict[str, float]

    def inspected(self, plan: Plan) -> InspectionResult:
        """Describe the network as a plan quantizes it."""
        asked, graph = self.choice.asked, self.choice.graph
        return inspected(self.source.spelled, self.job.teacher, self.job.captured, graph, asked.w[0], asked.a[0], plan)

    @cached_property
    def narrowest(self) -> InspectionResult:
        """The network with the fewest requested bits; without a budget, the network as it will be."""
        return self.inspected(self.choice.narrowest)

    def say_what_stays_float(self) -> None:
        """Report the layers that stay float, and why; only the first process reports."""
        found = self.narrowest
        kept = [row for row in found.layers if row.float_reason]
        if kept and launched().rank == 0:
            some = some_of([f"{row.name} ({row.float_reason})" for row in kept])
            share = 100 * sum(row.multiply_adds for row in kept) / found.multiply_adds
            said = f"{share:.1f} % of the multiply-adds stay float, see `intraq inspect`: {some}"
            self.job.context.report(Noted(said))

    def forecast(self) -> QuantizationResult:
        """Return the result as far as it is known without running, with a forecast of time and memory."""
        elapsed = time.perf_counter() - self.started
        forecast = forecast_cost(self.job, self.choice.narrowest, self.given, elapsed)
        chosen = chosen_bits(self.job, self.choice, self.given)
        return replace(self._result(chosen, self._as_chosen(chosen)), dry_run=True, forecast=forecast)

    def made_before(self) -> QuantizationResult | None:
        """Read the result of an earlier run of the same job from its folder; return None if another job made it."""
        try:
            run = read_run(self.path)
            if run.get("job") != self._digest:
                return None
            found = TypeAdapter(InspectionResult).validate_python(run["inspection"])
            noted = {**run, **run["measured"]}
            known = {key: noted[key] for key in FIGURES if noted.get(key) is not None}
            frontier = TypeAdapter(list[FrontierPoint]).validate_python(run["frontier"])
            result = self._result(Chosen(self.choice.narrowest, frontier), found)
            return TypeAdapter(QuantizationResult).validate_python({**asdict(result), **known})
        except (CheckpointError, ValidationError, KeyError, TypeError):
            return None

    def carried_out(self, force: bool, resume: bool, command: str, images: Sequence[str | Path]) -> QuantizationResult:
        """Run all stages and write the folder.

        Args:
            force: replace an existing folder.
            resume: resume from the states of an interrupted run of the same job.
            command: the command, to be recorded.
            images: where ``given`` comes from, to be recorded.

        Raises:
            IntraqError: a stage fails, or the folder cannot be written.
        """
        with self.job.started(self.path, self._identity, resume) as job:
            metrics = Metrics(job.context.report, job.context.store)
            job = replace(job, context=replace(job.context, report=metrics.report))
            started = self.started - job.context.store.before
            learns = self.given is None and job.recipe.synthesis.num_images
            made = job.synthesize() if learns else self.given
            chosen = chosen_bits(job, self.choice, made)
            found = self._as_chosen(chosen)
            quantized = job.quantize(chosen.plan, made)
            result = _with_figures(self._result(chosen, found), made, quantized)
            if job.context.ranks.rank == 0:
                run = manifest(job, self.source, result, made, command, images)
                run |= {
                    "job": self._digest,
                    "inspection": asdict(found),
                    "sensitivity": [asdict(one) for one in chosen.sensitivities],
                }
                end = Finished(job, self.source, chosen, quantized, made, run, started, metrics)
                write_folder(self.path, force, end)
                written = run["measured"]["bytes_quantized"]
                return replace(result, bytes_quantized=written, seconds=run["seconds"])
            return replace(result, seconds=time.perf_counter() - started)

    def _as_chosen(self, chosen: Chosen) -> InspectionResult:
        return self.narrowest if chosen.plan is self.choice.narrowest else self.inspected(chosen.plan)

    @cached_property
    def _identity(self) -> dict[str, Any]:
        """What must be equal in a later run for it to resume from this run's states."""
        job, asked = self.job, self.choice.asked
        bits = [asked.w, asked.a, asked.first_last_bits, asdict(asked.rules), asked.budget and asdict(asked.budget)]
        return {
            "job": "quantize",
            **origin_of(job.teacher, job.captured, job.recipe, job.context.seed),
            "recipe": job.recipe.to_dict(),
            "input": asdict(job.teacher.spec),
            "bits": [*bits, asked.sensitivities and asdict(asked.sensitivities)],
            "placement": self.choice.placement,
            "images": digest_of_images(self.given),
        }

    @cached_property
    def _digest(self) -> str:
        """Digest of the job, recorded in its folder."""
        job = {**self._identity, "device": self.job.context.device.type}
        return hashlib.sha256(json.dumps(job, sort_keys=True).encode()).hexdigest()

    def _result(self, chosen: Chosen, found: InspectionResult) -> QuantizationResult:
        """Return the result as far as it is known before the network is quantized."""
        job = self.job
        return QuantizationResult(
            path=spelled_path(self.path),
            model=self.source.spelled,
            w_bits=found.w_bits,
            a_bits=found.a_bits,
            recipe=job.recipe.name,
            bytes_float=found.bytes_float,
            bytes_quantized=found.bytes_quantized,
            stages=self.stages,
            seed=job.context.seed,
            device=str(job.context.device),
            act_placement=self.choice.placement,
            avg_bits=mean_bits(found.layers),
            mixed_bits=has_mixed_bits(found),
            frontier=chosen.frontier,
        )


def _with_figures(
    result: QuantizationResult, made: TuningImages | None, quantized: QuantizedModel
) -> QuantizationResult:
    """Return the result with the measured values filled in."""
    follows = quantized.fidelity
    if made is not None:
        losses = {made.kind: made.losses, "tuning": quantized.losses}
        result = replace(result, heterogeneity=made.heterogeneity, losses=losses, pictures=made.pictures)
    return replace(
        result,
        agreement=follows.agreement,
        kl=follows.kl,
        sqnr=follows.sqnr,
        held_out=follows.n,
        logits_error=quantized.logits_error,
        tuning_undone=quantized.tuning_undone,
        random_images=quantized.random_images,
    )


def timing(report: Report, stages: dict[str, float]) -> Report:
    """Return a report that also records the seconds of each stage in ``stages``."""

    def watched(event: Event) -> None:
        if isinstance(event, StageDone):
            stages[event.stage] = event.seconds
        report(event)

    return watched
