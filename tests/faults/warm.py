"""Imported once by the process from which jobs are forked: all that would take them seconds."""

from importlib import import_module

for name in (
    "alembic.command",
    "biva.data.readers.digits",
    "biva.evaluation.run",
    "biva.reporting.figures",
    "biva.tracking",
    "biva.training.loop",
    "matplotlib.pyplot",
    "mlflow.server",
    "mlflow.store.tracking.sqlalchemy_store",
    "torch._dynamo",
):
    import_module(name)
