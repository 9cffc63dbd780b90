# What the rules share: how they call `biva`, the experiment sets as Python objects, lists of files, and one narrow
# function per setting, so that a rule's params hold only what changes its outputs.
import errno
import os
import shlex
import shutil
import sys
from functools import cache
from pathlib import Path

from snakemake.settings.types import DeploymentMethod

NAME = "{dataset}/{architecture}/{model}/seed{seed}"
DATA = "resources/{dataset}"
SET = "results/{experiments}"
RUN = f"{SET}/runs/{NAME}"

# Files that several rules name. The fingerprint in data.json tells whether the arrays changed; their age tells nothing.
DATASET = {"data": f"{DATA}/data.json", "arrays": ancient(f"{DATA}/data.safetensors")}
TRAINED = {"summary": f"{RUN}/train.json", "weights": f"{RUN}/weights.safetensors"}

# The package `biva` beside this workflow is used, installed or not, wherever Snakemake runs; the installed one where there
# is none: after `biva init`, or where Snakemake fetches this file from a repository. The configuration beside it is used
# only where the working folder has none.
ROOT = Path(workflow.current_basedir.get_path_or_uri(secret_free=True)).parents[1]
sys.path.insert(0, str(ROOT))
if not Path("config/experiments").is_dir():
    os.environ.setdefault("BIVA_CONFIG", str(ROOT / "config"))

try:
    import biva.config
except ModuleNotFoundError as error:
    sys.exit(
        f"error: The Python that runs Snakemake, {sys.executable}, has no package `{error.name}`. Install `biva` for it, "
        "from the repository of this workflow: pip install git+https://ADDRESS"
    )
from biva.config import CONFIG_FOLDER, load_experiments, load_sets, resolve_runs
from biva.environment import settle
from biva.errors import UserError, explained
from biva.origin import commit
from biva.records import settings_digest

find_run, find_table, find_pair = map(cache, (biva.config.find_run, biva.config.find_table, biva.config.find_anomaly))
experiment_set = cache(load_experiments)
PAPER = str(CONFIG_FOLDER / "paper_results.csv")

if sys.prefix != sys.base_prefix:
    os.environ.pop("PYTHONPATH", None)  # jobs have the packages of this virtual environment and no others

USES_CONDA = DeploymentMethod.CONDA in workflow.deployment_settings.deployment_method
if USES_CONDA:
    # Where an environment is active already, `conda activate` puts the new one where the old one stands in PATH, which
    # may be behind another Python. Without this variable it puts the new one first.
    os.environ.pop("CONDA_SHLVL", None)

# In a container jobs see the working folder, and so what else they need is bound; with the driver of a GPU.
IMAGE = "biva.sif"
USES_CONTAINER = DeploymentMethod.APPTAINER in workflow.deployment_settings.deployment_method
INSTALLED = Path(biva.__file__).resolve().parent
if USES_CONTAINER:
    for folder in sorted({ROOT, INSTALLED.parent, CONFIG_FOLDER.absolute()}):
        if not folder.is_relative_to(Path.cwd()):
            workflow.deployment_settings.apptainer_args += f" --bind {shlex.quote(str(folder))}"
    if shutil.which("nvidia-smi"):
        workflow.deployment_settings.apptainer_args += " --nv"

# Where jobs look for the package first. Those that have another Python than Snakemake reach an installed one by a link, and
# with it nothing that is installed beside it.
OTHER_PYTHON = USES_CONDA or USES_CONTAINER
CODE = ROOT
if not (ROOT / "biva").is_dir():
    CODE = Path.cwd()
    if OTHER_PYTHON:
        CODE = CODE / ".snakemake/code"
        CODE.mkdir(parents=True, exist_ok=True)
        if (CODE / "biva").resolve() != INSTALLED:
            (CODE / "biva").unlink(missing_ok=True)
            (CODE / "biva").symlink_to(INSTALLED)


def call_biva(arguments):
    """The shell command of a rule, with this package `biva`: by the Python that runs Snakemake, or that of conda or the image.

    Snakemake takes PYTHONPATH away from jobs in conda environments, so the command itself sets it. There `-s` leaves out
    packages in `~/.local`.
    """
    python = "python -s" if OTHER_PYTHON else quoted(sys.executable)
    place = "" if Path.cwd() == CODE else f"PYTHONPATH={quoted(CODE)} BIVA_CONFIG={quoted(CONFIG_FOLDER)} "
    return f"{place}{python} -m biva {arguments}"


def quoted(path):
    """A path as a word of a shell command in which Snakemake fills in names in braces."""
    return shlex.quote(str(path)).replace("{", "{{").replace("}", "}}")


def checked(settings):
    """All settings of config/config.yaml, those given to Snakemake first; refuses a wrong configuration before any job."""
    try:
        settle()
        if set("{}") & set(str(ROOT)):
            raise UserError(
                f"Snakemake takes what stands in braces for names, so the project cannot be in {ROOT}. Move it to a "
                "folder without braces in its path."
            )
        notes = next(filter(os.path.exists, (".snakemake", ".")))
        if not os.access(notes, os.W_OK):  # else Snakemake ends in a traceback
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(Path(notes).absolute()))
        given = {
            key: value for key, value in settings.items() if key != "shown_settings"
        }  # of a module before this one
        settings = biva.config.load_main().model_dump() | given
        settings = biva.config.parse(biva.config.MainConfig, settings, "config/config.yaml or --config")
        for name in load_sets(settings.experiments):
            experiment_set(name)
        if USES_CONDA and not shutil.which("conda"):
            raise UserError(
                "--sdm conda needs the command `conda` (24.7.1 or newer), which is not on PATH. Install Miniforge, "
                "open a new shell and try again; or leave --sdm conda out: jobs then use the Python that runs "
                "Snakemake, such as that of .venv, which `make setup` builds."
            )
        if USES_CONTAINER and USES_CONDA:
            raise UserError("--sdm conda apptainer: the image has all packages, and no conda. Choose one of the two.")
        if USES_CONTAINER and not os.path.exists(IMAGE):
            raise UserError(
                f"--sdm apptainer needs the image {IMAGE} in {Path.cwd()}. Build it (docs/cluster.md), or put a link to "
                "it there; or leave --sdm apptainer out."
            )
    except (UserError, OSError) as error:
        sys.exit(f"error: {explained(error)}")
    if workflow.is_main_process:
        commit()  # warns now, and not in the jobs' logs alone, that it is unknown
    if settings.data_mirror:
        os.environ.setdefault("BIVA_DATA_MIRROR", settings.data_mirror)
    return settings.model_dump()


# ------------------------------------------------------------------------------------------------------ one run


def run_of(wildcards):
    """The run that a train or evaluate job's wildcards name."""
    return find_run(wildcards.experiments, NAME.format(**wildcards))


def run_threads(wildcards):
    return run_of(wildcards).threads


# Training and evaluation of a run. Minutes are of one attempt: the next goes on from what the last has kept.
RESOURCES_OF_RUN = {
    "gpu": lambda wildcards: int(run_of(wildcards).device != "cpu"),
    "mem_mb": lambda wildcards, attempt: attempt * 8000,
    "runtime": 24 * 60,
}


def parent_files(wildcards):
    """What a fine-tuned run starts from."""
    parent = f"{SET}/runs/{run_of(wildcards).parent_name}".format(**wildcards)
    return [f"{parent}/{Path(path).name}" for path in TRAINED.values()]


def part_files(wildcards):
    """What tells that the parts of an evaluation are there, if several jobs share it.

    With how many jobs an evaluation began it also ends, so that another `evaluation_jobs` repeats no finished one.
    """
    if run_of(wildcards).labels is not None:
        return []
    folder, parts = Path(RUN.format(**wildcards)), config["evaluation_jobs"]
    there = (path.name.partition("of")[2] for path in (folder / "evaluation_parts").glob("[1-9]*of*"))
    if begun := next(filter(str.isdecimal, there), None):
        parts = int(begun)
    elif parts == 1 or (folder / "evaluation.json").exists():
        return []
    return [f"{folder}/evaluation_parts/{part}of{parts}" for part in range(1, parts + 1)]


# ------------------------------------------------------------------------------------------------- an experiment set


@cache
def runs_of_set(name):
    """All runs of the set, in its file's order."""
    return resolve_runs(name, experiment_set(name))


def drawn_runs(experiments):
    """The runs that figures show: all but those with labels."""
    return [run for run in runs_of_set(experiments) if run.labels is None]


def scoring_runs(wildcards):
    """The runs that score an anomaly pair."""
    return list(filter(find_pair(wildcards.experiments, wildcards.pair).includes, runs_of_set(wildcards.experiments)))


def files_of(experiments, runs, *names):
    """These files of every one of these runs of the set."""
    return [f"results/{experiments}/runs/{run.name}/{name}" for run in runs for name in names]


def collected_files(wildcards):
    """The records that results.csv and MLflow are made of."""
    experiments = wildcards.experiments
    records = files_of(experiments, runs_of_set(experiments), "train.json", "evaluation.json")
    for pair in experiment_set(experiments).anomalies:
        records += files_of(experiments, filter(pair.includes, runs_of_set(experiments)), f"anomaly/{pair.name}.json")
    return records


def about(runs):
    """What captions say of runs."""
    return {
        "seeds": sorted({run.seed for run in runs}),
        "protocols": sorted({run.training.protocol for run in runs}),
        "datasets": sorted({run.dataset for run in runs}),
    }


def table_settings(wildcards):
    """What the table shows, and name -> config digest of the runs that it shows as numbers or as "not run"."""
    table = find_table(wildcards.experiments, wildcards.table)
    runs = list(filter(table.includes, runs_of_set(wildcards.experiments)))
    return table.model_dump(mode="json") | {"runs": {run.name: run.digest for run in runs}} | about(runs)


def figure_settings(wildcards):
    """What a figure's caption says; K only where the figure depends on it."""
    shows_k = wildcards.figure in ("bound_against_k", "ladder")
    ks = {"k": experiment_set(wildcards.experiments).evaluation.importance_samples} if shows_k else {}
    return about(drawn_runs(wildcards.experiments)) | ks


def pair_settings(wildcards):
    """What `detect` depends on, beside the runs."""
    return find_pair(wildcards.experiments, wildcards.pair).model_dump(mode="json")


def choosing_files(wildcards):
    """The description of the dataset on which the pair chooses k, if it does."""
    dataset = find_pair(wildcards.experiments, wildcards.pair).choose_k_on
    return [f"resources/{dataset}/data.json"] if dataset else []


def pair_files(wildcards):
    """The pair's records of every run that scores it."""
    names = [f"anomaly/{wildcards.pair}.{form}" for form in ("json", "safetensors")]
    return files_of(wildcards.experiments, scoring_runs(wildcards), *names)


def summary_texts(wildcards):
    """What the summary shows that no run and no report depends on."""
    architectures = {run.architecture.description for run in runs_of_set(wildcards.experiments)}
    return [experiment_set(wildcards.experiments).description, *sorted(architectures)]


def report_files(experiments):
    """Tables and figures of the set."""
    return [f"results/{experiments}/{file}" for file in experiment_set(experiments).report_files]


def shown(file, caption, category, **labels):
    """An output that Snakemake's report shows."""
    return report(file, caption=f"../report/{caption}", category=category, labels=labels)
