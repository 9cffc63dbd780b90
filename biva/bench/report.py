"""The record of a benchmark as tables for people."""

from __future__ import annotations

from typing import Any

from biva.text import aligned, size

GIGA = 1e9
SHOWN = 5
"""Of the costs of a step, which the record has more of."""


def report(record: dict[str, Any]) -> str:
    """What was measured: machine, limits, training, evaluation, start-up."""
    here, hardware = record["machine"], record["hardware"]
    matrices = ", ".join(
        f"{rate / GIGA:,.0f} GFLOP/s {name}" for name, rate in hardware["matrix_flops_per_second"].items()
    )
    start_up = ", ".join(f"biva {verb} {_spread(seconds, 's')}" for verb, seconds in record["start_up"].items())
    repeats = record["training"][0]["seconds"]["repeats"]
    return "\n".join(
        [
            f"{record['architecture']}, {record['model']}: {record['parameters']:,} parameters"
            + (", compiled" if record["compiled"] else ""),
            f"device: {here['device']}; {here['processor']}, {here['cores']} cores; {here['threads']} threads; "
            f"torch {record['versions']['torch']}",
            f"largest convolution: {record['largest_convolution']}",
            f"matrix products: {matrices}; copies: {hardware['copy_bytes_per_second'] / GIGA:,.1f} GB/s",
            f"start-up: {start_up}",
            f"Medians of {repeats} repeats (lowest to highest).",
            "",
            *aligned(_TRAINING, [_training_row(entry) for entry in record["training"]]),
            *(_costs(entry) for entry in record["training"]),
            "",
            *aligned(_EVALUATION, [_evaluation_row(entry) for entry in record["evaluation"]]),
        ]
    )


_TRAINING = (
    *("training", "batch", "steps/s", "images/s", "seconds a step", "GFLOP/image", "GFLOP/s", "limit", "share"),
    "peak memory",
)


def _training_row(entry: dict[str, Any]) -> tuple[str, ...]:
    return (
        entry["precision"],
        str(entry["batch_size"]),
        f"{entry['steps_per_second']:.3g}",
        f"{entry['images_per_second']:.4g}",
        _spread(entry["seconds"]),
        f"{entry['flops_per_image'] / GIGA:.4g}",
        *_rates(entry),
    )


def _costs(entry: dict[str, Any]) -> str:
    costs = ", ".join(f"{cost['operation']} {cost['share']:.0%}" for cost in entry["largest_costs"][:SHOWN])
    return f"largest costs of a step, {entry['precision']}, batch {entry['batch_size']}: {costs}"


_EVALUATION = (
    *("evaluation", "K", "images", "images*K/s", "seconds", "plain passes", "ratio", "sequential", "ratio", "by FLOPs"),
    *("GFLOP/image*K", "GFLOP/s", "limit", "share", "peak memory", "L_K - L_K of fp32, nats"),
)


def _evaluation_row(entry: dict[str, Any]) -> tuple[str, ...]:
    difference = entry.get("difference_from_fp32")
    return (
        entry["precision"],
        str(entry["importance_samples"]),
        str(entry["images"]),
        f"{entry['image_samples_per_second']:.4g}",
        _spread(entry["seconds"]),
        f"{entry['plain_image_samples_per_second']:.4g}",
        f"{entry['ratio_to_plain']:.2f}",
        f"{entry['sequential_image_samples_per_second']:.4g}",
        f"{entry['ratio_to_sequential']:.2f}",
        f"{entry['ratio_of_flops']:.2f}",
        f"{entry['flops_per_image_sample'] / GIGA:.4g}",
        *_rates(entry),
        f"{difference['mean']:+.2g}, at most {difference['largest']:.2g}" if difference else "-",
    )


def _rates(entry: dict[str, Any]) -> tuple[str, str, str, str]:
    """Sustained rate, limit with its memory format, their quotient, memory."""
    layout, limit = max(entry["limit_flops_per_second"].items(), key=lambda item: item[1])
    return (
        f"{entry['flops_per_second'] / GIGA:.4g}",
        f"{limit / GIGA:.4g} {layout}",
        f"{entry['share_of_limit']:.0%}",
        size(entry["peak_memory_bytes"]),
    )


def _spread(seconds: dict[str, Any], unit: str = "") -> str:
    return f"{seconds['median']:.3g}{unit and ' ' + unit} ({seconds['low']:.3g} to {seconds['high']:.3g})"
