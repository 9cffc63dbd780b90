"""A run's trained model in MLflow, for `mlflow.pytorch.load_model`.

MLflow's format for PyTorch is a pickle. Ours names one class, `biva.evaluation.trained_model.TrainedModel`, which must
be importable where it is loaded; all else in it is the configuration and the weights as bytes. biva never loads it.
"""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Any

from biva.records import RunFolder, read_json, sha256
from biva.tracking import find_run, open_experiment, usable_store

NAME = "model"
WEIGHTS = "weights_sha256"


def mirror_model(folder: RunFolder) -> None:
    """Log the selected weights of a mirrored run as its model, unless MLflow has them.

    Runs that learn from labels have no model of this kind; runs without weights, such as published ones, have none.

    Raises:
        TrackingError: as for `biva.tracking.mirror`.
    """
    run = read_json(folder.identity)
    if not folder.weights.is_file() or not folder.training.is_file() or run["config"].get("labels"):
        return
    with usable_store():
        client, experiment = open_experiment(run["experiments"])
        stored = find_run(client, experiment, "biva.run_id", run["run_id"])
        digest = sha256(folder.weights)
        if stored is None or _is_logged(client, experiment, stored.info.run_id, digest):
            return
        from mlflow.entities import LoggedModelOutput

        model = client.create_logged_model(
            experiment,
            name=NAME,
            source_run_id=stored.info.run_id,
            tags={WEIGHTS: digest, "commit": run["commit"]},
            params={"dataset": run["config"]["dataset"], "architecture": run["config"]["architecture_name"]},
            model_type="generative",
        )
        with tempfile.TemporaryDirectory() as scratch:
            _save(folder, run["config"], Path(scratch) / NAME, model.model_id, stored.info.run_id)
            client.log_model_artifacts(model.model_id, str(Path(scratch) / NAME))
        client.log_outputs(
            stored.info.run_id, [LoggedModelOutput(model.model_id, read_json(folder.training)["selected"]["update"])]
        )
        client.finalize_logged_model(model.model_id, "READY")


def _is_logged(client: Any, experiment: str, run_id: str, digest: str) -> bool:
    """Whether the run has these weights; what a kill left half logged is deleted."""
    there = client.search_logged_models([experiment], f"source_run_id = '{run_id}'")
    for model in there:
        if str(model.status) != "READY":
            client.delete_logged_model(model.model_id)
    return any(str(model.status) == "READY" and model.tags.get(WEIGHTS) == digest for model in there)


def _save(folder: RunFolder, config: dict[str, Any], path: Path, model_id: str, run_id: str) -> None:
    import mlflow.pytorch
    import numpy as np
    import torch
    from mlflow.models import Model, ModelSignature
    from mlflow.types import Schema, TensorSpec

    from biva.evaluation.trained_model import TrainedModel

    model = TrainedModel(json.dumps(config), folder.weights.read_bytes())
    images = TensorSpec(np.dtype("float32"), (-1, *model.input_shape), name="x")
    bound = TensorSpec(np.dtype("float32"), (-1,), name="elbo")
    mlflow.pytorch.save_model(
        model,
        str(path),
        mlflow_model=Model(model_id=model_id, run_id=run_id),
        signature=ModelSignature(Schema([images]), Schema([bound])),
        serialization_format="pickle",  # the other one, a traced graph, knows one method only
        pip_requirements=[f"torch=={torch.__version__.split('+')[0]}", "safetensors", "pydantic"],
    )
