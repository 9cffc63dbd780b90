"""The command `biva`: one verb per step of the workflow. It parses, calls and prints; the work is done elsewhere.

The configuration is the folder `config/`, or the one that BIVA_CONFIG names. All else is the folder of a dataset, of
a run or of a set's results, which options name; by default they lie where the workflow has them below the project's
root. What takes long to import is imported by the verb that needs it, so that `biva --help` answers at once.
"""

from __future__ import annotations

import logging
import os
import shlex
import sys
from collections.abc import Callable
from glob import glob
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated, Any, TypeVar

import typer

from biva.config import (
    Device,
    FigureName,
    RunConfig,
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
from biva.environment import settle
from biva.errors import UserError, explained
from biva.models.architectures import ModelName
from biva.records import PUBLISHED, RunFolder, read_json, write_atomically, write_json

RESOURCES = Path("resources")
RESULTS = Path("results")

app = typer.Typer(
    name="biva",
    help="""BIVA, reproduced: data, training, evaluation, tables and figures, one verb per step.

    `snakemake --cores all` runs all of them in order; each can be run by hand from the project's root. The environment
    variable BIVA_CONFIG names another folder than config/.""",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)

data = typer.Typer(
    help="Look at the datasets, describe them, or carry prepared ones to a machine without a network.",
    epilog="\b\nExamples:\n  biva data list\n  biva data export digits --to digits.tar\n  biva data import digits.tar\n"
    "  biva data croissant metadata",
    no_args_is_help=True,
    rich_markup_mode=None,
)
app.add_typer(data, name="data")

Experiments = Annotated[str, typer.Argument(help="Experiment set: a file in config/experiments/, without .yaml.")]
DatasetName = Annotated[str, typer.Argument(help="Dataset: an entry of config/datasets.yaml.")]
RunName = Annotated[str, typer.Argument(help="Run of the set: DATASET/ARCHITECTURE/MODEL/seedN.")]
RunFolders = Annotated[list[Path], typer.Argument(metavar="RUN_DIR...", help="Folders of runs.")]
PairName = Annotated[str, typer.Argument(help="`name` of one of the set's anomaly pairs.")]
TableName = Annotated[str, typer.Argument(help="`name` of a table of the set.")]
Figure = Annotated[FigureName, typer.Argument(help="What to draw.")]
ArchitectureName = Annotated[str, typer.Argument(help="A file in config/architectures/, without .yaml.")]
Model = Annotated[ModelName, typer.Option(help="How the posterior is inferred.")]
OnDevice = Annotated[Device, typer.Option(help="auto: a CUDA device where there is one.")]


def _folder(name: str, content: str, default: str) -> Any:
    return typer.Option(name, file_okay=False, help=f"Folder of {content}.", show_default=default)


FetchedFolder = Annotated[Path | None, _folder("--to", "the files", "resources/DATASET/raw")]
RawFolder = Annotated[Path | None, _folder("--from", "the raw files", "resources/DATASET/raw")]
PreparedFolder = Annotated[Path | None, _folder("--to", "the array file", "resources/DATASET")]
DataFolder = Annotated[Path | None, _folder("--data", "the run's dataset, prepared", "resources/DATASET")]
AnomalousFolder = Annotated[Path | None, _folder("--anomalous", "the other dataset", "resources/DATASET")]
ChoosingFolder = Annotated[Path | None, _folder("--choosing", "the dataset that chooses k", "resources/DATASET")]
NewRun = Annotated[Path | None, _folder("--to", "the run", "results/SET/runs/RUN")]
TrainedRun = Annotated[Path | None, _folder("--run", "the trained run", "results/SET/runs/RUN")]
ParentRun = Annotated[Path | None, _folder("--parent", "the run to fine-tune", "results/SET/runs/PARENT")]
Part = Annotated[str | None, typer.Option(help="N/M: only draw the N-th of M shares of the samples.")]
FromMLflow = Annotated[
    bool, typer.Option("--from-mlflow", help="Rebuild results.csv, tables and index.html from MLflow alone.")
]
SetFolder = Annotated[Path | None, _folder("--results", "the set's results", "results/SET")]

Verb = TypeVar("Verb", bound=Callable[..., None])


def verb(*examples: str, of: typer.Typer = app, name: str | None = None) -> Callable[[Verb], Verb]:
    """Enter a function as a verb of the command line, whose help ends with these examples."""
    return of.command(name, epilog="\b\nExamples:\n" + "\n".join(f"  {example}" for example in examples))


def main() -> None:
    """Run the command line.

    A user's mistake, or what the operating system refused, is reported in words, without a traceback, with status 1.
    """
    logging.basicConfig(format="%(message)s")
    logging.getLogger("biva").setLevel(logging.INFO)
    try:
        settle()
        app()
    except (UserError, OSError) as error:
        print(f"error: {explained(error)}", file=sys.stderr)
        raise SystemExit(1) from None


# -------------------------------------------------------------------------------------------------------------- project


@verb("biva init my_project")
def init(folder: Annotated[Path, typer.Argument(help="A new folder, or an empty one.")]) -> None:
    """Lay out a project of its own: the workflow, the configuration and the conda environment.

    For a `biva` that was installed without a clone of the project; jobs use the installed package.
    """
    folder.mkdir(parents=True, exist_ok=True)
    if any(folder.iterdir()):
        raise UserError(f"{folder} is not empty. Name a new folder: what is in this one is not overwritten.")
    project = Path(__file__).with_name("project")
    for name in filter(lambda name: (project / name).is_file(), glob("**", root_dir=project, recursive=True)):
        write_atomically(folder / name, (project / name).read_bytes())
    print(f"cd {shlex.quote(str(folder))} && snakemake --cores all")


# --------------------------------------------------------------------------------------------------------------- models


@verb("biva describe biva_28x28", "biva describe biva_32x32 --model vae")
def describe(architecture: ArchitectureName, model: Model = "biva") -> None:
    """Print an architecture's stages, latents and parameters."""
    from biva.devices import enough_memory
    from biva.models.describe import describe

    with enough_memory("Use smaller sizes."):
        print(describe(architecture, load_architecture(architecture), model))


@verb("biva check biva_28x28")
def check(architecture: ArchitectureName, model: Model = "biva", device: OnDevice = "auto") -> None:
    """Check that a device computes a model's ELBO as the CPU does in double precision.

    Untrained weights, random images, the same noise; takes seconds. Status 1 if they differ by more than rounding.
    """
    from biva.bench import benchmarked, check

    print(check(benchmarked(architecture, load_architecture(architecture), model, device)))


@verb(
    "biva bench digits_8x8 --batch-size 32 --batch-size 64",
    "biva bench biva_28x28 --precision fp32 --device cpu --threads 2",
)
def bench(
    architecture: ArchitectureName,
    model: Model = "biva",
    batch_size: Annotated[list[int], typer.Option(min=1, help="Of training; may be repeated.")] = [48],
    importance_samples: Annotated[list[int], typer.Option(min=1, help="K; may be repeated.")] = [100],
    images: Annotated[int, typer.Option(min=1, help="Images whose samples are drawn.")] = 4,
    precision: Annotated[list[str], typer.Option(help="fp32, tf32 or bf16; may be repeated.")] = ["fp32", "bf16"],
    compiled: Annotated[bool, typer.Option("--compile", help="Measure training once more, compiled.")] = False,
    device: OnDevice = "auto",
    threads: Annotated[int | None, typer.Option(min=1, help="CPU threads.", show_default="as torch chooses")] = None,
    seconds: Annotated[float, typer.Option(min=0, help="Every measurement lasts at least so long.")] = 5,
) -> None:
    """Measure a model's speed and memory beside the machine's limit.

    Training and evaluation are the real ones, on random images. docs/performance.md explains the columns. `biva plan`
    reads the numbers from results/bench/ARCHITECTURE-MODEL.json.
    """
    from biva.bench import bench, benchmarked, report
    from biva.devices import find_precision

    run = benchmarked(architecture, load_architecture(architecture), model, device, threads)
    precisions = [find_precision(name) for name in precision]
    record = bench(run, precisions, batch_size, importance_samples, images, seconds, compiled=compiled)
    print(report(record))
    write_json(RESULTS / "bench" / f"{architecture}-{model}.json", record)


@verb("biva plan quick", "biva plan paper --device cuda --flops-rate 2e13")
def plan(
    experiments: Experiments,
    flops_rate: Annotated[
        float | None, typer.Option(min=1, help="FLOP/s to assume.", show_default="as measured, else a cautious rate")
    ] = None,
    device: Annotated[
        Device | None, typer.Option(help="Plan for this device.", show_default="that of the set, as found here")
    ] = None,
) -> None:
    """Print what a set or collection would run, and how many hours that takes, before anything starts.

    Hours follow from FLOPs, and from the newest `biva bench` of the model on this machine, if there is one.
    """
    from biva.plan import plan

    sets = {name: load_experiments(name) for name in load_sets(experiments)}
    if device is not None:
        sets = {name: settings.model_copy(update={"device": device}) for name, settings in sets.items()}
    print(plan(sets, load_datasets(), RESULTS / "bench", flops_rate))


# ----------------------------------------------------------------------------------------------------------------- data


@verb("biva data list", of=data, name="list")
def data_list() -> None:
    """List all datasets: size, splits, where they come from, what is present here.

    Sizes are of the raw files and of the array file; what is present in resources/ is looked for, not verified.
    """
    from biva.data.catalogue import catalogue

    print(catalogue(load_datasets(), RESOURCES))


@verb("biva data export mnist_static omniglot --to datasets.tar", of=data, name="export")
def data_export(
    datasets: Annotated[list[str], typer.Argument(metavar="DATASET...", help="Entries of config/datasets.yaml.")],
    to: Annotated[Path, typer.Option(help="The file; it must not exist.")] = Path("datasets.tar"),
) -> None:
    """Write prepared datasets into one tar, with checksums and licences.

    Reads resources/DATASET/data.safetensors and data.json, which `biva fetch` and `biva prepare` make.
    """
    from biva.data.bundle import export_datasets

    configs = {name: find_dataset(name) for name in datasets}
    export_datasets(configs, RESOURCES, to)
    for name, config in configs.items():
        print(f"{name}: {config.licence}")
    print(to)


@verb("biva data import datasets.tar", of=data, name="import")
def data_import(file: Annotated[Path, typer.Argument(help="What `biva data export` wrote.")]) -> None:
    """Verify an exported tar and put its datasets into resources.

    Snakemake then has nothing to fetch or prepare for them. What is there with another content is not overwritten.
    """
    from biva.data.bundle import import_datasets

    configs = load_datasets()
    for name in import_datasets(file, configs, RESOURCES):
        print(f"{RESOURCES / name / 'data.json'}  licence: {configs[name].licence}")


@verb("biva data croissant metadata", of=data, name="croissant")
def data_croissant(folder: Annotated[Path, typer.Argument(help="Where to write.")]) -> None:
    """Write metadata of all datasets for repositories and search engines, in the format Croissant: DATASET.json each.

    Made of config/datasets.yaml, without the data: description, citation, licence, and files with their addresses and
    digests. A file without an address, such as one from a package, is looked for beside its metadata.
    """
    from biva.data.croissant import croissant

    for name, config in load_datasets().items():
        write_json(folder / f"{name}.json", croissant(name, config))
        print(folder / f"{name}.json")


@verb("biva fetch digits", "BIVA_DATA_MIRROR=$HOME/datasets biva fetch mnist_static")
def fetch(dataset: DatasetName, to: FetchedFolder = None) -> None:
    """Fetch a dataset's raw files and verify their checksums.

    Tried in order: BIVA_DATA_MIRROR, or else `data_mirror` of config/config.yaml; then the dataset's own sources.
    """
    from biva.data.sources import fetch

    mirror = os.environ.get("BIVA_DATA_MIRROR") or load_main().data_mirror
    for path in fetch(dataset, find_dataset(dataset), to or RESOURCES / dataset / "raw", mirror):
        print(path)


@verb("biva prepare digits")
def prepare(dataset: DatasetName, raw: RawFolder = None, to: PreparedFolder = None) -> None:
    """Turn raw files into one array file, data.safetensors, and its fingerprint, data.json."""
    from biva.data.datasets import prepare

    folder = RESOURCES / dataset
    prepare(dataset, find_dataset(dataset), raw or folder / "raw", to or folder)


# ----------------------------------------------------------------------------------------------------------------- runs


@verb(
    "biva train quick digits/digits_8x8/biva/seed1",
    "biva train static_mnist mnist_static/biva_28x28/biva_finetuned/seed1",
)
def train(
    experiments: Experiments, run: RunName, data: DataFolder = None, to: NewRun = None, parent: ParentRun = None
) -> None:
    """Train one run, from its last checkpoint if it has one.

    A fine-tuned run (MODEL_finetuned) starts from the selected weights of the run that it fine-tunes, its parent.
    """
    from biva.tracking import mirroring
    from biva.training.loop import train
    from biva.training.signals import Interrupted

    config = find_run(experiments, run)
    folder = _run_folder(experiments, run, to)
    parent_folder = _run_folder(experiments, config.parent_name, parent) if config.parent_name else None
    dataset = _prepared(config.dataset, data)
    try:
        with mirroring(folder) as mirror:
            train(config, dataset, folder, on_evaluation=mirror, parent_folder=parent_folder)
    except Interrupted as interruption:
        print(interruption, file=sys.stderr)
        raise typer.Exit(interruption.exit_status) from None


@verb(
    "biva evaluate quick digits/digits_8x8/biva/seed1",
    "biva evaluate quick digits/digits_8x8/biva_50_labels/seed1",
    "biva evaluate quick digits/digits_8x8/biva/seed1 --part 2/8",
)
def evaluate(
    experiments: Experiments, run: RunName, data: DataFolder = None, folder: TrainedRun = None, part: Part = None
) -> None:
    """Evaluate a trained run on the test split.

    Several processes, on any machines that share the folder, can draw a share of the samples each, by --part. What they
    have drawn is kept, and the same command without --part goes on from there, to the same result.
    """
    from biva.evaluation.kept import parse_share
    from biva.evaluation.run import evaluate, evaluate_share
    from biva.tracking import mirror_or_warn

    config, settings = find_run(experiments, run), load_experiments(experiments).evaluation
    trained, share = _run_folder(experiments, run, folder), parse_share(part) if part else None
    dataset = _prepared(config.dataset, data)
    if share:
        evaluate_share(trained, settings, dataset, share)
    else:
        evaluate(trained, settings, dataset)
        mirror_or_warn(trained)


@verb(
    "biva repeat results/published/quick/runs/digits/digits_8x8/biva/seed1/weights.safetensors",
    "biva repeat results/published/quick/runs/digits/digits_8x8/vae/seed1/weights.safetensors --k 100 --images 64",
)
def repeat(
    weights: Annotated[Path, typer.Argument(help="A file that `biva publish` wrote.")],
    k: Annotated[
        list[int] | None, typer.Option(min=1, help="K of L_K; may be repeated.", show_default="as published")
    ] = None,
    images: Annotated[int | None, typer.Option(min=1, help="Test images, drawn.", show_default="as published")] = None,
    data: DataFolder = None,
    device: Annotated[Device | None, typer.Option(help="Where to compute.", show_default="as trained")] = None,
) -> None:
    """Repeat the published numbers of a model from its weights file alone.

    Needs the prepared dataset, writes nothing, and prints its numbers beside the published ones.
    """
    from biva.data.datasets import load
    from biva.devices import choose_device, device_name
    from biva.evaluation.repeat import comparison, repeat
    from biva.weights import read_published

    published = read_published(weights)
    then, device = published.settings, device or published.run.device
    asked = {"importance_samples": tuple(k or then.importance_samples), "max_images": images or then.max_images}
    settings = then.model_copy(update=asked)
    found = repeat(published, load(data or RESOURCES / published.run.dataset), settings, device)
    print(comparison(published, found, settings, device_name(choose_device(device))))


@verb("biva detect small_fashion_anomalies fashion_mnist/small_28x28/biva/seed1 mnist")
def detect(
    experiments: Experiments,
    run: RunName,
    pair: PairName,
    data: DataFolder = None,
    anomalous: AnomalousFolder = None,
    choosing: ChoosingFolder = None,
    folder: TrainedRun = None,
) -> None:
    """Tell another dataset's test images from those of the run's own.

    Where the pair has choose_k_on, k of LLR^{>k} is chosen on that third dataset and on validation images. Writes
    anomaly/PAIR.json and .safetensors into the run's folder.
    """
    from biva.evaluation.detect import detect
    from biva.tracking import mirror_or_warn

    settings, evaluation = find_anomaly(experiments, pair), load_experiments(experiments).evaluation
    if not settings.includes(find_run(experiments, run)):
        raise UserError(f"{run} does not score {pair}: by {experiments}, runs of other data or models do.")
    trained = _run_folder(experiments, run, folder)
    normal, other = _prepared(settings.normal, data), _prepared(settings.anomalous, anomalous)
    third = _prepared(settings.choose_k_on, choosing) if settings.choose_k_on else None
    detect(trained, settings, evaluation, normal, other, third)
    mirror_or_warn(trained)


@verb("biva track results/quick/runs/digits/digits_8x8/biva/seed*")
def track(folders: RunFolders, results: SetFolder = None) -> None:
    """Complete the MLflow copy of runs.

    Logs what MLflow lacks of the runs, of their models and of their sets' tables and figures; running it again changes
    nothing. `mlflow.pytorch.load_model` gives a model back, with elbo(x), sample(n) and reconstruct(x).
    MLflow is results/mlflow/, or MLFLOW_TRACKING_URI. Where a project was moved, MLflow's files are found again.
    """
    from biva.tracking import follow_move, mirror, mirror_model, mirror_reports

    sets = sorted({read_json(RunFolder(path).identity)["experiments"] for path in folders})
    if results and len(sets) > 1:
        raise UserError(
            f"--results is one set's folder, but these runs are of {', '.join(sets)}. Track each set alone."
        )
    follow_move()
    for folder in map(RunFolder, sorted(folders)):  # a fine-tuned run, whose name is longer, finds its parent there
        mirror(folder)
        mirror_model(folder)
        print(folder.path)
    for experiments in sets:
        mirror_reports(experiments, results or RESULTS / experiments)


# -------------------------------------------------------------------------------------------------------------- results


@verb("biva status quick", "biva status paper")
def status(experiments: Experiments) -> None:
    """Print how far the runs of a set or collection are, with their ELBO, and how long they still take.

    Reads the files in results/ alone, on any machine that has them: also while Snakemake runs, here or by SLURM. On a
    terminal it is shown anew every two seconds, until all runs are done or Ctrl-C.
    """
    from biva.status import show

    show({name: load_experiments(name) for name in load_sets(experiments)}, load_datasets(), RESULTS)


@verb("biva collect quick", "biva collect quick --from-mlflow")
def collect(experiments: Experiments, results: SetFolder = None, from_mlflow: FromMLflow = False) -> None:
    """Collect a set's records into one results.csv.

    Reads runs/ in the folder of the results, and writes results.csv; runs that are not evaluated yet are left out.
    """
    from biva.reporting.texts import write_csv, write_texts

    runs, folder = _planned(experiments), results or RESULTS / experiments
    if from_mlflow:
        from biva.tracking import records_from_mlflow

        with TemporaryDirectory() as scratch:
            records_from_mlflow(experiments, Path(scratch))
            print(*write_texts(experiments, Path(scratch), folder), sep="\n")
    else:
        print(write_csv(runs, folder / "runs", folder))


@verb("biva table quick likelihood", "biva table quick labels_50")
def table(experiments: Experiments, name: TableName, results: SetFolder = None) -> None:
    """Write a table of a set's results: likelihood bounds, or test errors of semi-supervised runs.

    Reads results.csv and the bounds in runs/ in the folder of the results; writes tables/NAME.tex and .html.
    """
    from biva.reporting.texts import write_table

    table = find_table(experiments, name)
    folder = results or RESULTS / experiments
    print(*write_table(table, _planned(experiments), folder / "runs", folder), sep="\n")


@verb("biva figure quick learning_curves")
def figure(experiments: Experiments, name: Figure, results: SetFolder = None) -> None:
    """Draw a figure of a set's runs, but for those that learn from labels.

    Reads runs/ in the folder of the results; writes figures/NAME.pdf and NAME.png.
    """
    from biva.reporting.canvas import save
    from biva.reporting.figures import draw, folders_to_draw

    folder = results or RESULTS / experiments
    print(*save(draw(name, folders_to_draw(experiments, folder)), folder / "figures" / name), sep="\n")


@verb("biva anomalies small_fashion_anomalies mnist")
def anomalies(experiments: Experiments, pair: PairName, results: SetFolder = None) -> None:
    """Write the table and the figure of an anomaly pair.

    Reads runs/ in the folder of the results; writes anomalies/PAIR.tex, .html, .pdf and .png. Where nothing has run, it
    writes the table alone.
    """
    from biva.reporting.canvas import save
    from biva.reporting.figures.anomaly import draw_anomaly
    from biva.reporting.texts import write_table

    settings, folder = find_anomaly(experiments, pair), results or RESULTS / experiments
    runs = _planned(experiments)
    print(*write_table(settings, runs, folder / "runs", folder), sep="\n")
    scoring = (RunFolder(folder / "runs" / run.name) for run in runs if settings.includes(run))
    print(*save(draw_anomaly(scoring, settings), folder / "anomalies" / pair), sep="\n")


@verb("biva summary quick")
def summary(experiments: Experiments, results: SetFolder = None) -> None:
    """Put a set's tables, figures and runs on one page: for a browser, and for LaTeX.

    Writes index.html and summary.tex into the folder of the results and, where pdflatex is installed, summary.pdf. What
    does not exist yet is printed as not run.
    """
    from biva.reporting.summary import compile_pdf, summary
    from biva.reporting.texts import write_page

    settings, runs, folder = load_experiments(experiments), _planned(experiments), results or RESULTS / experiments
    document = folder / "summary.tex"
    write_atomically(document, summary(settings, runs, folder).encode())
    print(document, write_page(settings, runs, folder / "runs", folder, folder), sep="\n")
    if problem := compile_pdf(document):
        print(problem, file=sys.stderr)
    else:
        print(document.with_suffix(".pdf"))


@verb("biva compare quick")
def compare(
    experiments: Experiments,
    server: Annotated[
        str | None,
        typer.Option(help="Of MLflow.", show_default="MLFLOW_TRACKING_URI if it is one, else http://127.0.0.1:5000"),
    ] = None,
) -> None:
    """Print the address of MLflow's page that compares a set's runs; of those with labels another.

    `make ui` starts MLflow's server on this machine and prints them too.
    """
    from biva.tracking import comparison_pages, is_server

    load_experiments(experiments)  # refuses a set that there is not
    tracking = os.environ.get("MLFLOW_TRACKING_URI", "")
    address = server or (tracking if is_server(tracking) else "http://127.0.0.1:5000")
    print(*comparison_pages(experiments, address), sep="\n")


# -------------------------------------------------------------------------------------- results, verified and published


@verb("biva verify quick", "biva verify results/quick")
def verify(
    experiments: Annotated[
        str, typer.Argument(help="Experiment set, or the folder of its results: results/SET or results/published/SET.")
    ],
) -> None:
    """Check that a set's results are what its runs gave, and that nothing was edited.

    Recomputes results.csv and all tables from the records, compares every file of every run with its manifest, the
    data with their fingerprints and everything with MLflow's copy. Status 1 and a list of what does not agree. No model
    is computed again, so it passes on any processor; whether runs made on another one are the same, `biva same` tells.
    """
    from biva.verification import verify

    folder = Path(experiments) if "/" in experiments else RESULTS / experiments
    done = verify(folder.name, folder, RESOURCES)
    for finding in done.findings:
        print(f"- {finding}")
    if done.findings:
        raise UserError(f"{folder}: {len(done.findings)} things do not agree.")
    print(f"{folder}: {done.runs} of {done.planned} planned runs are there, and all agrees.")


@verb("biva publish quick")
def publish(experiments: Experiments) -> None:
    """Copy the records of a set's runs to results/published, which git keeps.

    Everything but pictures and scores of images: some kilobytes per run, and 80 per K and 10,000 test images for their
    bounds; and the weights of one run per model, up to 10 MB, with the records in their header and a model card beside
    them. ro-crate-metadata.json says to other programs what ran, on what, with what and what came out, as a Workflow
    Run RO-Crate. A set that `biva verify` does not pass is refused.
    """
    from biva.publishing import publish

    for path in publish(experiments, RESULTS, RESOURCES):
        print(path)


@verb("biva rebuild")
def rebuild(
    experiments: Annotated[
        list[str] | None, typer.Argument(metavar="[SET]...", help="Published sets.", show_default="all")
    ] = None,
) -> None:
    """Make the tables, figures, model cards and RO-Crates of published sets anew, from their records alone.

    Reads results/published/SET/runs; writes results.csv, tables, figures and ro-crate-metadata.json beside it, cards
    beside weights.
    """
    from biva.publishing import published_sets, rebuild

    names = published_sets(RESULTS, experiments or ())
    if not names:
        print(f"Nothing is published yet in {RESULTS / PUBLISHED}.")
    for name in names:
        print(*rebuild(name, RESULTS / PUBLISHED / name), sep="\n")


@verb("biva same quick")
def same(experiments: Experiments, results: SetFolder = None) -> None:
    """Tell whether a set that was run again is the same as the published one.

    Compares results.csv with that of results/published/SET: every mean over seeds of a bound, an error or an anomaly
    score is equal to the bit, within error, or different, which is worse than the published one by more than seeds and
    Monte Carlo error explain in 19 of 20 cases (so of many equally good values one of twenty is called different). On
    another processor than the published runs', within error is what to expect; of a set with one seed, whose spread is
    not known, different too.

    Status 0: all that ran is equal to the bit. 3: the rest is within error. 4: something is different. 1: there is
    nothing to compare.
    """
    from biva.publishing import published_sets
    from biva.reporting.rerun import compare, report, status
    from biva.reporting.results import read_results

    load_experiments(experiments)  # refuses a set that there is not
    published_sets(RESULTS, [experiments])  # refuses one that is not
    folders = (RESULTS / PUBLISHED / experiments, results or RESULTS / experiments)
    published, rerun = (read_results(folder / "results.csv") for folder in folders)
    verdicts = compare(published, rerun, folders)
    print(report(verdicts))
    raise typer.Exit(status(verdicts))


@verb("biva schema")
def schema() -> None:
    """Write the configuration files' schemas to workflow/schemas, and their reference to docs/configuration.md."""
    from biva.reference import generated

    for path, content in generated().items():
        write_atomically(path, content.encode())
        print(path)


def _prepared(dataset: str, folder: Path | None) -> Any:
    """The dataset of this name, prepared as its entry says; refuses another one in the folder."""
    from biva.data.datasets import load

    return load(folder or RESOURCES / dataset, (dataset, find_dataset(dataset)))


def _planned(experiments: str) -> list[RunConfig]:
    return resolve_runs(experiments, load_experiments(experiments))


def _run_folder(experiments: str, run: str, named: Path | None) -> RunFolder:
    return RunFolder(named or RESULTS / experiments / "runs" / run)
