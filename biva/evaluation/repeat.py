"""Published numbers again, from the weights file and the prepared data: no run folder, and nothing is written."""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory

import pandas as pd

from biva.config import Evaluation
from biva.data.datasets import Dataset
from biva.devices import choose_device, computing_in, use_threads
from biva.evaluation.run import Record, Sampling, Trained, bounds_of, load_model, metrics, refuse_other_data
from biva.records import RunFolder
from biva.weights import PublishedWeights


def repeat(weights: PublishedWeights, dataset: Dataset, settings: Evaluation, device: str) -> list[Record]:
    """Evaluate published weights as the run was evaluated: the metrics as `evaluation.json` has them.

    With the settings of `weights`, on the same kind of device (as for `choose_device`) with the same versions, they
    are the published ones to the bit; K and images other than the published ones give other samples.

    Raises:
        UserError: `dataset` is not what the run was trained on, or the device is not there.
    """
    refuse_other_data(str(weights.path), weights.identity, dataset)
    use_threads(weights.run.threads)
    chosen = choose_device(device)
    model = load_model(weights.run, weights.content, chosen)
    trained = Trained(weights.run, model, chosen, weights.evaluation["weights_sha256"])
    with computing_in("fp32", chosen), TemporaryDirectory() as scratch:
        sampling = Sampling.of(trained, dataset, settings, RunFolder(Path(scratch)))
        samples = sampling.samples(settings.precision)
        return metrics(samples, bounds_of(samples, settings), weights.run)


def comparison(weights: PublishedWeights, found: list[Record], settings: Evaluation, device: str) -> str:
    """A table of what `repeat` found by these settings, on `device` in words, beside the published numbers, and what to
    expect of their differences.
    """
    with weights.as_written():
        published = {(metric["metric"], metric["k"]): metric for metric in weights.evaluation["metrics"]}
        rows = []
        for metric in found:
            other = published.get((metric["metric"], metric["k"]))
            there, by = (_number(other), f"{metric['value'] - other['value']:.1e}") if other else ("-", "-")
            rows.append((metric["metric"], str(metric["k"] or ""), metric["unit"], there, _number(metric), by))
        table = pd.DataFrame(rows, columns=["metric", "K", "unit", "published", "here", "difference"])
        return "\n".join([table.to_string(index=False), _expectation(weights, settings, device)])


def _number(metric: Record) -> str:
    value, error = metric["value"], metric["standard_error"]
    return f"{value:g}" if error is None else f"{value:.5f} ± {error:.5f}"


def _expectation(weights: PublishedWeights, settings: Evaluation, device: str) -> str:
    then, total = weights.evaluation["device"], weights.evaluation["images_in_split"]
    of_here, published = (
        (max(each.importance_samples), min(each.max_images or total, total)) for each in (settings, weights.settings)
    )
    if of_here != published:
        return "Other images or K than the published ones: other samples, so expect differences as large as ±."
    if device != then:
        return (
            f"Published on {then}, repeated on {device}, which may draw other numbers: expect differences well below ±."
        )
    return (
        "The settings and the device of the published numbers: expect no difference, or on another processor one of "
        "rounding."
    )
