"""Every configuration file of the project as a pydantic model: one file per section, one for loading.

The JSON schemas under `workflow/schemas/` are generated from these models (`biva schema`), so a key is written down
once. Loading refuses what it does not know and names file, key, value and what is allowed.
"""

from biva.config.base import PROTOCOL_SPLITS, Device, Name, Precision, Protocol
from biva.config.datasets import DatasetConfig, Datasets, RawFile
from biva.config.experiments import (
    AnomalyPair,
    Collection,
    Evaluation,
    Experiments,
    FigureName,
    Finetuning,
    LikelihoodTable,
    RunGroup,
    SemiSupervised,
    Table,
    reported_name,
)
from biva.config.loading import (
    CONFIG_FOLDER,
    find_anomaly,
    find_dataset,
    find_run,
    find_table,
    load_architecture,
    load_datasets,
    load_experiments,
    load_main,
    load_sets,
    resolve_runs,
)
from biva.config.main import MainConfig
from biva.config.runs import FINETUNED, Labels, RunConfig, by_group
from biva.config.training import Training
from biva.config.yaml_files import parse
