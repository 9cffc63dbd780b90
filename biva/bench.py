"""How fast a model is trained and evaluated on this machine, and whether the machine computes it correctly.

Training and evaluation are the real ones, on random images and untrained weights, so that no dataset is needed.
Beside them stands what the machine can do: the model's largest convolution, called by itself.
"""

from __future__ import annotations

import copy
import logging
import resource
import sys
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from functools import partial
from itertools import product
from typing import Any, NamedTuple, cast

import pandas as pd
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.benchmark import Timer
from torch.utils.flop_counter import FlopCounterMode

from biva.bounds import elbo
from biva.config import Device, Precision, RunConfig, Training
from biva.data.datasets import Dataset
from biva.devices import choose_device, computing_in, device_name, use_threads
from biva.errors import UserError
from biva.evaluation.likelihood import IMAGES_PER_BATCH, batches, chunks, importance_sample
from biva.evaluation.memory import rows_for
from biva.evaluation.noise import sample_noise
from biva.models.architectures import Architecture, ModelName
from biva.models.hierarchical_vae import HierarchicalVAE, count_parameters
from biva.models.layers import fold_weight_norm
from biva.plan import conditions, count, no_noise
from biva.reporting.ours import significant
from biva.seeds import derive_seed
from biva.training.state import State, initial_state, step

SEED = derive_seed("bench")

CHECKED_IMAGES = 8
LARGEST_DIFFERENCE = 1e-5
"""Largest difference that rounding may make, as a share of the mean ELBO; float32 on a CPU makes 3e-7."""

_log = logging.getLogger(__name__)


def benchmarked(
    architecture_name: str, architecture: Architecture, model: ModelName, device: Device, threads: int | None = None
) -> RunConfig:
    """The run whose training and evaluation are measured, with as many CPU threads as torch chooses by itself."""
    return RunConfig(
        experiments="bench",
        dataset="random",
        model=model,
        architecture_name=architecture_name,
        seed=0,
        device=device,
        threads=threads or torch.get_num_threads(),
        architecture=architecture,
        training=Training(protocol="clean", batch_size=IMAGES_PER_BATCH, max_updates=1, evaluate_every=1),
    )


def with_training(run: RunConfig, **changes: Any) -> RunConfig:
    """The run with other training settings."""
    return run.model_copy(update={"training": run.training.model_copy(update=changes)})


def initialised(run: RunConfig, device: torch.device) -> State:
    """A run before its first update, on as many random images as a batch has."""
    levels, shape = 2 if run.architecture.likelihood == "bernoulli" else 256, run.architecture.input_shape
    generator = torch.Generator().manual_seed(SEED)
    pixels = torch.randint(levels, (run.training.batch_size, *shape), dtype=torch.uint8, generator=generator)
    dataset = Dataset(
        name="random",
        fingerprint="",
        shape=shape,
        levels=levels,
        binarisation="static" if levels == 2 else "none",
        images={"train": pixels},
        labels={},
    )
    return initial_state(run, dataset, device)


class Convolution(NamedTuple):
    """A convolution of a model."""

    flops: int
    """Per image, forward."""
    input: tuple[int, ...]
    """Channels, height, width."""
    weight: tuple[int, ...]
    """Output channels, input channels, kernel height, kernel width."""
    stride: int

    def __str__(self) -> str:
        out, channels, height, width = self.weight
        on = "x".join(map(str, self.input[1:]))
        return f"{height}x{width}, {channels} -> {out} channels, stride {self.stride}, on {on}"


def largest_convolution(architecture: Architecture, model: ModelName) -> Convolution:
    """The convolution of a model with the most FLOPs, transposed ones left out."""
    found = []

    def note(layer: Any, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        flops = 2 * output[0].numel() * layer.weight[0].numel()
        found.append(Convolution(flops, tuple(inputs[0].shape[1:]), tuple(layer.weight.shape), layer.stride[0]))

    with torch.device("meta"):
        built = HierarchicalVAE(architecture, model)
        for module in built.modules():
            if isinstance(module, nn.Conv2d):
                module.register_forward_hook(note)
        built(torch.zeros(1, *architecture.input_shape), no_noise)
    return max(found)


class Bench:
    """Measurements of one model.

    Args:
        run: from `benchmarked`.
        seconds: a call is repeated for at least so long; the median of its repeats counts.

    Raises:
        UserError: the device is not there.
    """

    def __init__(self, run: RunConfig, seconds: float) -> None:
        self.run, self.at_least, self.device = run, seconds, choose_device(run.device)
        self.model = cast(ModelName, run.model)
        self.costs = count(run.architecture, self.model)
        self.largest = largest_convolution(run.architecture, self.model)
        use_threads(run.threads)

    def training(self, precision: Precision, batch_size: int, compiled: bool) -> dict[str, Any]:
        """Forward pass, backward pass, and update of the weights and of their moving average."""
        _log.info("training, %s, batch %d%s", precision, batch_size, ", compiled" if compiled else "")
        run = with_training(self.run, precision=precision, batch_size=batch_size, compiled=compiled)
        state = initialised(run, self.device)
        rate = batch_size / self._seconds(lambda: step(state))
        peak = self._peak_gb()
        limit = self.limit(batch_size, precision, backward=True)
        return {
            "precision": precision,
            "batch": batch_size,
            "compiled": compiled,
            "images/s": rate,
            **_beside_the_limit(rate * self.costs.training, limit),
            "peak GB": peak,
        }

    def evaluation(self, precision: Precision, k: int, images: int) -> dict[str, Any]:
        """K samples of every image, beside full passes of one sample per image, which keep nothing for the next one."""
        _log.info("evaluation, %s, K = %d", precision, k)
        state = initialised(with_training(self.run, batch_size=max(images, IMAGES_PER_BATCH)), self.device)
        model, x = cast(HierarchicalVAE, fold_weight_norm(state.model.eval())), cast(Tensor, state.batches.next())
        del state  # the optimiser and the moving average take memory
        rows = rows_for(self.run.architecture, None, self.device)

        def importance() -> None:
            with computing_in(precision, self.device):
                importance_sample(model, x[:images], k, seed=SEED, rows=rows, device=self.device)

        @torch.inference_mode()
        def sequential() -> None:
            with computing_in(precision, self.device):
                model(x[:IMAGES_PER_BATCH], lambda _name, shape: torch.randn(shape, device=self.device)).kl.cpu()

        def noise() -> None:
            for few in batches(range(images), min(rows, IMAGES_PER_BATCH)):
                for first, chunk in chunks(k, rows // len(few)):
                    draw = sample_noise(SEED, few, first, self.device)
                    for name, shape in groups.items():
                        draw(f"q({name})", torch.Size([chunk * len(few), *shape]))

        with torch.inference_mode():
            steps = model(x[:1], no_noise).walk.steps
            groups = {name: step.value.shape[1:] for name, step in steps.items()}
        seconds, costs = self._seconds(importance), self.costs.evaluation(k)
        rate, peak = images * k / seconds, self._peak_gb()
        limit = self.limit(min(rows, images * k), precision, backward=False)
        return {
            "precision": precision,
            "K": k,
            "images": images,
            "images*K/s": rate,
            "of sequential": rate / (IMAGES_PER_BATCH / self._seconds(sequential)),
            "noise": self._seconds(noise) / seconds,
            **_beside_the_limit(rate * costs, limit),
            "peak GB": peak,
        }

    def limit(self, rows: int, precision: Precision, *, backward: bool) -> float:
        """FLOP/s of the largest convolution by itself over `rows` images, in the faster of torch's memory formats."""
        rates: list[float] = []
        dtype = torch.bfloat16 if precision == "bf16" else torch.float32
        for memory_format in (torch.contiguous_format, torch.channels_last):
            x, weight = (
                torch.randn(shape, dtype=dtype, device=self.device, requires_grad=backward).to(
                    memory_format=memory_format
                )
                for shape in ((rows, *self.largest.input), self.largest.weight)
            )

            def call(x: Tensor = x, weight: Tensor = weight) -> None:
                with computing_in(precision, self.device):
                    y = F.conv2d(x, weight, None, self.largest.stride, self.largest.weight[-1] // 2)
                    if backward:
                        torch.autograd.grad(y, (x, weight), torch.ones_like(y))

            with FlopCounterMode(display=False) as counter:
                call()
            rates.append(counter.get_total_flops() / self._seconds(call))
        return max(rates)

    def _seconds(self, call: Callable[[], object]) -> float:
        """Median seconds of a call, after two in which memory is allocated, kernels are chosen and code is compiled."""
        if self.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(self.device)
        call()
        call()
        timer = Timer("call()", globals={"call": call}, num_threads=self.run.threads)
        return float(timer.blocked_autorange(min_run_time=self.at_least).median)

    def _peak_gb(self) -> float:
        """GB: on a GPU what torch had allocated during the last calls, else of this process at its largest so far."""
        if self.device.type == "cuda":
            return torch.cuda.max_memory_allocated(self.device) / 1e9
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return (peak if sys.platform == "darwin" else 1024 * peak) / 1e9


def _beside_the_limit(flops: float, limit: float) -> dict[str, float]:
    """Columns of FLOP/s and what the largest convolution reaches."""
    return {"GFLOP/s": flops / 1e9, "limit": limit / 1e9, "share": flops / limit}


def bench(
    run: RunConfig,
    precisions: Sequence[Precision],
    batch_sizes: Sequence[int],
    importance_samples: Sequence[int],
    images: int,
    seconds: float,
    *,
    compiled: bool,
) -> dict[str, Any]:
    """Measure every combination: training, with `compiled` once more compiled, and evaluation.

    Returns:
        The record that `biva plan` reads; `training` and `evaluation` have a row per combination.

    Raises:
        UserError: the device is not there, or does not know a precision.
    """
    for precision in precisions:
        with computing_in(precision, choose_device(run.device)):  # refused now, not after minutes
            pass
    measure = Bench(run, seconds)
    ways = (False, True) if compiled else (False,)
    return {
        "architecture": run.architecture_name,
        "conditions": conditions(run, measure.device),
        "largest_convolution": str(measure.largest),
        "training": [measure.training(*choice) for choice in product(precisions, batch_sizes, ways)],
        "evaluation": [measure.evaluation(*choice, images) for choice in product(precisions, importance_samples)],
        "finished": datetime.now(UTC).isoformat(timespec="seconds"),
    }


def report(record: dict[str, Any]) -> str:
    """The record on one screen; `docs/performance.md` explains the columns."""
    here, shown = record["conditions"], partial(significant, digits=4)
    parts = ("training", "evaluation")
    tables = {part: pd.DataFrame(record[part]).to_string(index=False, float_format=shown) for part in parts}
    return "\n".join(
        [
            f"{record['architecture']}, {here['model']}; largest convolution: {record['largest_convolution']}",
            f"{here['device']}; {here['processor']}, {here['cores']} cores; {torch.get_num_threads()} threads; "
            f"torch {torch.__version__}",
            *(f"\n{part}\n{table}" for part, table in tables.items()),
        ]
    )


def check(run: RunConfig) -> str:
    """How far a model's ELBO in float32 on the run's device is from that in float64 on the CPU.

    Untrained weights, random images, the same noise.

    Raises:
        UserError: an image's ELBO differs by more than rounding can make.
    """
    device, state = choose_device(run.device), initialised(run, torch.device("cpu"))
    model, x = cast(HierarchicalVAE, state.model.eval()), cast(Tensor, state.batches.next())[:CHECKED_IMAGES]
    exact = _elbo(copy.deepcopy(model).double(), x.double())
    with computing_in("fp32", device):
        difference = (_elbo(model.to(device), x.to(device)).cpu() - exact).abs().max().item()
    found = (
        f"{run.architecture_name}, {run.model}: {count_parameters(model):,} parameters. ELBO of {CHECKED_IMAGES} "
        f"images, {exact.mean():.1f} nats: {device_name(device)} in fp32 and the CPU in double precision differ by at "
        f"most {difference:.1g} nats"
    )
    if not difference < LARGEST_DIFFERENCE * abs(exact.mean()):
        raise UserError(f"{found}, more than rounding can: nothing computed on this device can be trusted.")
    return f"{found}."


@torch.inference_mode()
def _elbo(model: HierarchicalVAE, x: Tensor) -> Tensor:
    """ELBO of every image, (B,), by the same noise for every type and device."""
    generator = torch.Generator().manual_seed(SEED)
    terms = model(x, lambda _name, shape: torch.randn(shape, generator=generator, dtype=torch.float64).to(x))
    return elbo(terms.log_likelihood, terms.kl).double()
