"""The command line: help with examples that work, and mistakes reported without a traceback."""

from __future__ import annotations

import shlex
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from unittest.mock import Mock

import pytest
import typer.main

from biva.cli import app
from biva.config import load_architecture
from biva.records import write_json
from tests.commands import assert_names_exist, assert_parsed, status_of

ROOT = Path(__file__).parents[2]
VERBS = (
    *("describe", "check", "bench", "plan", "data", "fetch", "prepare", "train", "evaluate", "detect", "track"),
    *("collect", "table", "figure", "anomalies", "summary", "schema", "status"),
    *("compare", "verify", "publish", "rebuild", "repeat", "same", "init"),
)


@dataclass(frozen=True)
class Done:
    """What a command gave."""

    status: int
    stdout: str
    stderr: str


@pytest.fixture
def biva(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., Done]:
    """The command, in a folder that has nothing but the project's configuration."""
    (tmp_path / "config").symlink_to(ROOT / "config")
    monkeypatch.chdir(tmp_path)

    def call(*arguments: str) -> Done:
        return Done(status_of(*arguments), *capsys.readouterr())

    return call


def examples(verb: str) -> list[list[str]]:
    """Arguments of every example in the verb's help, without `biva` and variables set before it."""
    command = typer.main.get_command(app).commands[verb]  # type: ignore[attr-defined]
    lines = [shlex.split(line) for line in command.epilog.splitlines() if "biva" in line]
    return [line[line.index("biva") + 1 :] for line in lines]


def test_help_lists_every_verb_and_imports_nothing_heavy() -> None:
    code = (
        "import sys\nfrom biva.cli import main\nsys.argv = ['biva', '--help']\ntry:\n    main()\nfinally:\n"
        "    heavy = {'torch', 'mlflow', 'pandas', 'matplotlib', 'sklearn'} & set(sys.modules)\n"
        "    print('heavy:', *sorted(heavy), file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stderr == "heavy:\n"
    assert {line.split()[0] for line in done.stdout.split("Commands:")[1].splitlines() if line} == set(VERBS)


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_has_examples_that_its_parser_takes_and_that_name_things_that_exist(verb: str) -> None:
    shown = examples(verb)
    assert shown
    for arguments in shown:
        assert arguments[0] == verb
        assert_parsed(arguments)
        assert_names_exist(arguments)


@pytest.mark.parametrize(
    ("command", "said"),
    [
        ("describe nope", "There is no architecture 'nope'"),
        ("describe ../architectures/digits_8x8", "There is no architecture '../architectures/digits_8x8'"),
        ("bench nope", "There is no architecture 'nope'"),
        ("bench digits_8x8 --precision fp8", "There is no precision 'fp8'. Known: fp32, tf32, bf16."),
        ("bench digits_8x8 --device cpu --precision tf32", "tf32 is a mode of NVIDIA GPUs"),
        ("plan nope", "There is no experiment set 'nope'"),
        ("fetch nope", "config/datasets.yaml has no dataset 'nope'"),
        ("prepare nope", "config/datasets.yaml has no dataset 'nope'"),
        ("data croissant config/config.yaml", "config/config.yaml: File exists. Something else has this name. Move it"),
        ("train nope a/b/c/seed1", "There is no experiment set 'nope'"),
        ("train quick ../../x", "has no run '../../x'"),
        ("train quick digits/digits_8x8/biva/seed1", "is not prepared"),
        ("evaluate quick a/b/c/seed1", "has no run 'a/b/c/seed1'"),
        ("evaluate quick digits/digits_8x8/biva/seed1 --part 3/2", "'3/2' is no share of an evaluation"),
        ("status nope", "There is no experiment set 'nope'"),
        ("compare nope", "There is no experiment set 'nope'"),
        ("compare paper", "'paper' is a collection of experiment sets. Name one of them: static_mnist, "),
        ("collect nope", "There is no experiment set 'nope'"),
        ("table quick nope", "has no table 'nope'"),
        ("table quick likelihood", "results/quick/results.csv does not exist"),
        ("repeat nope.safetensors", "There are no published weights nope.safetensors"),
        ("verify nope", "There is no experiment set 'nope'"),
        ("verify results/quick", "nothing to verify: results/quick has no finished run"),
        ("publish quick", "There is nothing to verify"),
        ("rebuild quick", "Nothing is published of quick. Published: nothing yet."),
        ("init .", "is not empty. Name a new folder"),
        ("init config/config.yaml", "config/config.yaml: File exists. Something else has this name. Move it away"),
        ("init /proc/new", "/proc/new: No such file or directory. "),
        ("same nope", "There is no experiment set 'nope'"),
        ("same quick", "Nothing is published of quick. Published: nothing yet."),
    ],
)
def test_a_users_mistake_is_one_message_and_status_1(biva: Callable[..., Done], command: str, said: str) -> None:
    done = biva(*command.split())
    assert done.status == 1
    assert done.stderr.startswith("error: ")
    assert said in done.stderr
    assert done.stdout == ""
    assert not Path("results").exists()


@pytest.mark.parametrize("verb", ["train", "evaluate", "detect"])
def test_another_dataset_than_the_run_s_is_refused(biva: Callable[..., Done], verb: str) -> None:
    write_json(Path("data/data.json"), {"dataset": "photo_patches", "fingerprint": sha256(b"").hexdigest()})
    Path("data/data.safetensors").touch()
    pair = ["photo_patches"] if verb == "detect" else []
    done = biva(verb, "quick", "digits/digits_8x8/biva/seed1", *pair, "--data", "data")
    assert done.status == 1
    assert "its dataset is 'photo_patches', but by config/datasets.yaml 'digits'" in done.stderr


def test_sizes_that_no_memory_holds_are_one_message(biva: Callable[..., Done], monkeypatch: pytest.MonkeyPatch) -> None:
    large = load_architecture("digits_8x8", ROOT / "config").model_copy(update={"filters": 2**61})
    monkeypatch.setattr("biva.cli.load_architecture", lambda _name: large)
    done = biva("describe", "digits_8x8")
    assert (done.status, done.stdout, done.stderr.count("\n")) == (1, "", 1)
    assert done.stderr.startswith("error: The memory does not suffice (")


def test_a_disk_that_init_fills_is_one_line(biva: Callable[..., Done], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.fsync", Mock(side_effect=OSError(28, "No space left on device")))
    done = biva("init", "new")
    assert (done.status, done.stderr.count("\n")) == (1, 1)
    assert done.stderr.startswith("error: new/")
    assert ": No space left on device. Free some space" in done.stderr


@pytest.mark.parametrize("command", ["nope", "train", "describe biva_28x28 --model gan", "figure quick nope"])
def test_a_wrong_command_line_is_status_2_with_usage(biva: Callable[..., Done], command: str) -> None:
    done = biva(*command.split())
    assert done.status == 2
    assert "Usage: " in done.stderr


def test_describe_prints_stages_and_the_parameters_line(biva: Callable[..., Done]) -> None:
    assert biva("describe", "biva_28x28").stdout.splitlines()[-1] == "parameters: 31550946"


def test_summary_of_a_set_that_has_not_run_says_so(biva: Callable[..., Done]) -> None:
    assert biva("summary", "quick").stdout.startswith("results/quick/summary.tex\n")
    assert "not run" in Path("results/quick/summary.tex").read_text()


def test_bench_measures_and_plan_reads_its_record(biva: Callable[..., Done]) -> None:
    few = "--batch-size 4 --importance-samples 2 --images 1 --seconds 0 --precision fp32 --device cpu --threads 1"
    assert "share  peak GB" in biva("bench", "digits_8x8", *few.split()).stdout
    planned = biva("plan", "quick").stdout.splitlines()
    speeds = [line.split("cpu", 1)[1].split()[0] for line in planned if line.startswith("quick ")]
    assert speeds == ["assumed", "assumed", "assumed", "measured", "measured", "assumed"]


def test_data_list_prints_every_dataset(biva: Callable[..., Done]) -> None:
    lines = biva("data", "list").stdout.splitlines()
    assert {"digits", "cifar10", "celeba64"} <= {line.split(" ")[0] for line in lines}


def test_schema_writes_what_is_in_the_repository(biva: Callable[..., Done]) -> None:
    """If this fails: run `biva schema`."""
    written = biva("schema").stdout.split()
    schemas = {f"workflow/schemas/{path.name}" for path in (ROOT / "workflow/schemas").iterdir()}
    assert {*written} == schemas | {"docs/configuration.md"}
    for path in written:
        assert Path(path).read_text().splitlines() == (ROOT / path).read_text().splitlines(), path


def test_a_run_that_the_pair_leaves_out_does_not_score_it(biva: Callable[..., Done]) -> None:
    done = biva("detect", "cifar10", "cifar10/biva_32x32/lvae/seed1", "svhn")
    assert done.status == 1
    assert "cifar10/biva_32x32/lvae/seed1 does not score svhn" in done.stderr


def test_outside_of_a_project_the_message_says_where_to_call_biva(
    biva: Callable[..., Done], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    for arguments in (["plan", "quick"], ["data", "list"]):
        assert "There is no folder config" in (said := biva(*arguments).stderr) and "BIVA_CONFIG" in said
