"""Imported once by the process from which `biva` and Snakemake are forked: all that would take them seconds.

Python has one such process, so what is imported there is named in one place.
"""

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
    "snakemake.cli",
    "tests.faults.processes",
    "torch._dynamo",
):
    import_module(name)
