# What the rules share: the experiment set as Python objects, target lists, and one narrow function per setting, so that
# a rule's params hold only what changes its outputs.
import os
import shutil
import sys
from functools import cache
from pathlib import Path

from snakemake.settings.types import DeploymentMethod

# Jobs run `python -m biva`: by default with the Python that runs Snakemake, and with this checkout's package, installed
# or not. With `--software-deployment-method conda` the environment's own Python comes first.
sys.path.insert(0, str(Path(workflow.basedir).parent))
os.environ.update(PATH=os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")]))

from snakemake.io import IOFile

import biva.config
from biva.errors import UserError
from biva.records import RunFolder, read_json

RUN = "results/{experiments}/runs/{dataset}/{architecture}/{model}/seed{seed}"


def told(function):
    """`function`, with a user's mistake told in its own words and nothing else."""

    def wrapped(*arguments):
        try:
            return function(*arguments)
        except UserError as error:
            sys.exit(f"error: {error}")

    return wrapped


@told
def check(settings):
    """Refuse a wrong configuration before any job starts; hand `data_mirror` to the jobs."""
    settings = biva.config.parse(biva.config.MainConfig, settings, "config/config.yaml or --config")
    for name in biva.config.load_sets(settings.experiments):
        biva.config.load_experiments(name)
    if settings.data_mirror:
        os.environ.setdefault("BIVA_DATA_MIRROR", settings.data_mirror)
    if DeploymentMethod.CONDA in workflow.deployment_settings.deployment_method and not shutil.which("conda"):
        raise UserError(
            "--use-conda needs the command `conda` (24.7.1 or newer), which is not on PATH. Install Miniforge, open a new "
            "shell and try again; or leave --use-conda out: jobs then use the Python that runs Snakemake, such as "
            "that of .venv, which `make setup` builds."
        )


@told
def shown_settings(name):
    """The configuration as the report shows it: file -> its text."""
    names = dict.fromkeys([name, *biva.config.load_sets(name)])
    paths = [biva.config.CONFIG_FOLDER / "experiments" / f"{name}.yaml" for name in names]
    return {str(path): path.read_text(encoding="utf-8") for path in [biva.config.CONFIG_FOLDER / "config.yaml", *paths]}


@cache
@told
def experiment_set(name):
    """`config/experiments/NAME.yaml`, validated."""
    return biva.config.load_experiments(name)


@cache
@told
def runs_of_set(name):
    """All runs of the set, in its file's order."""
    return biva.config.resolve_runs(name, experiment_set(name))


@cache
@told
def found(find, experiments, name):
    """What a function of `biva.config` finds in the set by name; looked up once, since many jobs ask."""
    return find(experiments, name)


# ------------------------------------------------------------------------------------------------------ one run


def run_of(wildcards):
    """The run that a train or evaluate job's wildcards name."""
    w = wildcards
    return found(biva.config.find_run, w.experiments, f"{w.dataset}/{w.architecture}/{w.model}/seed{w.seed}")


def run_digest(wildcards):
    """Hash of all settings that change the trained weights."""
    return run_of(wildcards).digest


def parent_files(wildcards):
    """What a fine-tuned run starts from."""
    folder = f"results/{wildcards.experiments}/runs/{run_of(wildcards).parent_name}"
    return [f"{folder}/train.json", f"{folder}/weights.safetensors"]


def run_threads(wildcards):
    return run_of(wildcards).threads


def run_gpus(wildcards):
    return 0 if run_of(wildcards).device == "cpu" else 1


def more_each_time(amount):
    """A resource that grows with every attempt of a job."""
    return lambda wildcards, attempt: attempt * amount


def evaluation_settings(wildcards):
    """All evaluation settings that change a number; the precision came later, and fp32 is what was before."""
    return numbers_of(experiment_set(wildcards.experiments).evaluation)


def numbers_of(evaluation):
    unimportant = {"memory_budget_mb"} | ({"precision"} if evaluation.precision == "fp32" else set())
    return evaluation.model_dump(mode="json", exclude=unimportant)


def part_files(wildcards):
    """What tells that the parts of an evaluation are there, if several jobs share it.

    A finished evaluation has the number of parts that it had, so that another number of jobs repeats none.
    """
    if run_of(wildcards).labels is not None:
        return []
    jobs, folder = config["evaluation_jobs"], RunFolder(Path(RUN.format(**wildcards)))
    if is_evaluated(wildcards, folder):
        recorded = workflow.persistence.input(IOFile(str(folder.evaluation))) or []
        return [file for file in recorded if file.startswith(f"{folder.path}/evaluation_parts/")]
    parts = range(1, jobs + 1) if jobs > 1 else []
    return [f"{folder.path}/evaluation_parts/{part}of{jobs}" for part in parts]


def is_evaluated(wildcards, folder):
    """Whether the folder holds the evaluation that the configuration asks for."""
    try:
        evaluation, identity = read_json(folder.evaluation), read_json(folder.identity)
        settings = biva.config.parse(biva.config.Evaluation, evaluation.get("settings"), folder.evaluation)
    except UserError:  # there is none, or none that this version of biva made
        return False
    wanted = evaluation_settings(wildcards), run_digest(wildcards)
    return (numbers_of(settings), identity.get("config_digest")) == wanted


# ------------------------------------------------------------------------------------------------- an experiment set


def run_folders(experiments):
    return [f"results/{experiments}/runs/{run.name}" for run in runs_of_set(experiments)]


def files_of(experiments, runs, *names):
    """These files of every one of these runs of the set."""
    return [f"results/{experiments}/runs/{run.name}/{name}" for run in runs for name in names]


def scoring_runs(experiments, pair):
    """The runs that score an anomaly pair."""
    return [run for run in runs_of_set(experiments) if pair.includes(run)]


def collected_files(wildcards):
    """The records that results.csv and MLflow are made of."""
    experiments = wildcards.experiments
    records = files_of(experiments, runs_of_set(experiments), "train.json", "evaluation.json")
    for pair in experiment_set(experiments).anomalies:
        records += files_of(experiments, scoring_runs(experiments, pair), f"anomaly/{pair.name}.json")
    return records


def table_settings(wildcards):
    """What the table shows, and name -> config digest of the runs that it shows as numbers or as "not run"."""
    table = found(biva.config.find_table, wildcards.experiments, wildcards.table)
    runs = {run.name: run.digest for run in runs_of_set(wildcards.experiments) if table.includes(run)}
    return (
        table.model_dump(mode="json")
        | {"runs": runs}
        | about(filter(table.includes, runs_of_set(wildcards.experiments)))
    )


@told
def distances(wildcards):
    """Our values minus the reported ones. The caption of a table asks for them when the report is made."""
    from biva.reporting.texts import distances

    table = found(biva.config.find_table, wildcards.experiments, wildcards.table)
    return distances(table, runs_of_set(wildcards.experiments), Path("results") / wildcards.experiments)


def about(runs):
    """What captions say of runs."""
    runs = list(runs)
    return {
        "seeds": sorted({run.seed for run in runs}),
        "protocols": sorted({run.training.protocol for run in runs}),
        "datasets": sorted({run.dataset for run in runs}),
    }


def drawn_runs(experiments):
    """The runs that figures show: all but those with labels."""
    return [run for run in runs_of_set(experiments) if run.labels is None]


def figure_settings(wildcards):
    """What a figure's caption says; K only where the figure depends on it."""
    shows_k = wildcards.figure == "bound_against_k"
    ks = {"k": experiment_set(wildcards.experiments).evaluation.importance_samples} if shows_k else {}
    return about(drawn_runs(wildcards.experiments)) | ks


def figure_files(wildcards):
    """What a figure reads of every run but those with labels. record.jsonl is complete once train.json is there."""
    runs = drawn_runs(wildcards.experiments)
    if wildcards.figure in ("learning_curves", "bound_over_time", "latents_over_training"):
        return files_of(wildcards.experiments, runs, "train.json")
    return files_of(wildcards.experiments, runs, "evaluation.json", "evaluation.safetensors")


def pair_of(wildcards):
    return found(biva.config.find_anomaly, wildcards.experiments, wildcards.pair)


def pair_settings(wildcards):
    """What `detect` depends on, beside the runs."""
    return pair_of(wildcards).model_dump(mode="json")


def pair_report_settings(wildcards):
    """What the captions of a pair's table and figure say."""
    return pair_settings(wildcards) | about(scoring_runs(wildcards.experiments, pair_of(wildcards)))


def anomalous_data(wildcards):
    return f"resources/{pair_of(wildcards).anomalous}/data.json"


def pair_files(wildcards):
    """The pair's records of every run that scores it."""
    runs, pair = scoring_runs(wildcards.experiments, pair_of(wildcards)), f"anomaly/{wildcards.pair}"
    return files_of(wildcards.experiments, runs, f"{pair}.json", f"{pair}.safetensors")


def summary_texts(wildcards):
    """What the summary shows that no run and no report depends on."""
    architectures = {run.architecture.description for run in runs_of_set(wildcards.experiments)}
    return [experiment_set(wildcards.experiments).description, *sorted(architectures)]


def report_files(experiments):
    """Tables and figures of the set."""
    settings = experiment_set(experiments)
    files = [f"{table}.{form}" for table in settings.table_stems for form in ("tex", "html")]
    files += [f"{figure}.{form}" for figure in settings.figure_stems for form in ("pdf", "png")]
    return [f"results/{experiments}/{file}" for file in files]


def all_results(name):
    """Everything that `snakemake` makes for an experiment set, or for every set of a collection."""
    return [
        file
        for experiments in biva.config.load_sets(name)
        for folder in [f"results/{experiments}"]
        for file in (
            f"{folder}/results.csv",
            *report_files(experiments),
            f"{folder}/summary.tex",
            f"{folder}/tracked.txt",
        )
    ]
