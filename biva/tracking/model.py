"""The trained model of a run as MLflow's, for `mlflow.pytorch.load_model`."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Any

from biva.records import RunFolder, read_json, sha256
from biva.tracking.store import find_run, open_experiment, usable_store

_NEEDS = ("filelock", "numpy", "psutil", "pydantic", "pyyaml", "safetensors")
"""What `TrainedModel` needs beside torch, as pip calls it; hubconf.py lists the same for `torch.hub`."""


def mirror_model(folder: RunFolder) -> None:
    """Log the selected weights of a mirrored run as its model for `mlflow.pytorch.load_model`, unless MLflow has them.

    MLflow's format for PyTorch is a pickle. Ours names one class, `biva.evaluation.trained_model.TrainedModel`, which
    must be importable where it is loaded; all else in it is the configuration and the weights as bytes. biva never
    loads it. Runs that learn from labels or have no weights, such as most published ones, have no model.

    Raises:
        TrackingError: as for `mirror`.
    """
    run = read_json(folder.identity)
    if not folder.weights.is_file() or not folder.training.is_file() or run["config"].get("labels"):
        return
    with usable_store():
        client, experiment = open_experiment(run["experiments"])
        stored = find_run(client, experiment, "biva.run_id", run["run_id"])
        digest = sha256(folder.weights)
        if stored is None or _has_model(client, experiment, stored.info.run_id, digest):
            return
        from mlflow.entities import LoggedModelOutput

        model = client.create_logged_model(
            experiment,
            name="model",
            source_run_id=stored.info.run_id,
            tags={"weights_sha256": digest, "commit": run["commit"]},
            params={"dataset": run["config"]["dataset"], "architecture": run["config"]["architecture_name"]},
            model_type="generative",
        )
        with tempfile.TemporaryDirectory() as scratch:
            _save_model(folder, run["config"], Path(scratch) / "model", model.model_id, stored.info.run_id)
            client.log_model_artifacts(model.model_id, str(Path(scratch) / "model"))
        update = read_json(folder.training)["selected"]["update"]
        client.log_outputs(stored.info.run_id, [LoggedModelOutput(model.model_id, update)])
        client.finalize_logged_model(model.model_id, "READY")


def _has_model(client: Any, experiment: str, run_id: str, digest: str) -> bool:
    """Whether the run has a model with these weights; what a kill left half logged is deleted."""
    models = client.search_logged_models([experiment], f"source_run_id = '{run_id}'")
    for model in models:
        if str(model.status) != "READY":
            client.delete_logged_model(model.model_id)
    return any(str(model.status) == "READY" and model.tags.get("weights_sha256") == digest for model in models)


def _save_model(folder: RunFolder, config: dict[str, Any], path: Path, model_id: str, run_id: str) -> None:
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
        pip_requirements=[f"torch=={torch.__version__.split('+')[0]}", *_NEEDS],
    )
