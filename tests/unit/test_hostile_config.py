"""Configuration files made to harm: each is read as what it says, or refused in words of a bounded number."""

from __future__ import annotations

import copy
import re
import shutil
from collections.abc import Callable, Iterable, Iterator
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from biva.config import (
    MainConfig,
    load_architecture,
    load_datasets,
    load_experiments,
    load_main,
    load_sets,
    parse,
    resolve_runs,
)
from biva.errors import UserError
from biva.reporting.results import load_paper_results
from tests.hostile import bounded, spoilt
from tests.unit.test_config import put

CONFIG = Path(__file__).parents[2] / "config"
NAME = re.compile("[a-z0-9_]+")

LAUGHS = "a: &a [ha, ha]\n" + "".join(f"{new}: &{new} [{f'*{old}, ' * 20}]\n" for old, new in pairwise("abcdefgh"))
MERGES = "a: &a {x: 1}\n" + "".join(f"{new}: &{new}\n  <<: [{f'*{old}, ' * 20}]\n" for old, new in pairwise("abcdefgh"))
WORDS = r"""null true -1 0 1e400 .nan -.inf 2001-99-99 = << *a ~ --- '' "\0" "\x1b[31m" "\ud800" "\UFFFFFFFF" "\n"
../../x /etc/passwd '`id`' \input{/etc/passwd} '%s%n{}'"""
SCALARS = [
    *WORDS.split(),
    *("9" * 25, "9" * 5000, "0x" + "f" * 5000, "1:" * 400 + "1", "[" * 400, "{" * 400, "- " * 400, "x" * 5000),
    *("!!timestamp x", "!!int x", "!!int ''", "!!bool x", "!!float x", "!!binary é", "!!set {a}", "!!omap [a: 1]"),
    *("!x y", "&a [*a]", "&a {b: *a}", "? ", "[a, [b, {c: d}]]", "{a: 1, a: 2}", "%YAML 9", "é中\u202e"),
    *("a;touch executed", '"$(touch executed)"', "!!python/object/apply:os.system [touch executed]"),
    "!!python/name:os.system",
]


@pytest.fixture(scope="session")
def config(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """config/ with one set of every kind and the two datasets and the architecture that they name."""
    folder = tmp_path_factory.mktemp("hostile") / "config"
    shutil.copytree(CONFIG, folder)
    datasets = yaml.safe_load((CONFIG / "datasets.yaml").read_text())["datasets"]
    few = {name: datasets[name] for name in ("digits", "photo_patches")}
    (folder / "datasets.yaml").write_text(yaml.safe_dump({"datasets": few}))
    return folder


def load_set(config: Path) -> None:
    experiments = load_experiments("quick", config)
    for run in resolve_runs("quick", experiments, config):
        assert re.fullmatch(r"[a-z0-9_]+/[a-z0-9_]+/[a-z0-9_]+/seed[0-9]+", run.name)
        assert re.fullmatch("[0-9a-f]{16}", run.digest)
    for stem in experiments.table_stems + experiments.figure_stems:
        assert re.fullmatch("[a-z]+/[a-z0-9_]+", stem)


def load_datasets_of(config: Path) -> None:
    for name, dataset in load_datasets(config).items():
        assert NAME.fullmatch(name) and NAME.fullmatch(dataset.folder)
        assert all(not file.name.startswith(".") and "/" not in file.name for file in dataset.files)


def load_shapes(config: Path) -> None:
    architecture = load_architecture("digits_8x8", config)
    assert min(min(shape) for shape in architecture.stage_shapes + architecture.latent_shapes) > 0


def named(names: Iterable[str]) -> None:
    assert all(map(NAME.fullmatch, names))


FILES: dict[str, Callable[[Path], Any]] = {
    "config.yaml": lambda config: named([load_main(config).experiments]),
    "datasets.yaml": load_datasets_of,
    "experiments/quick.yaml": load_set,
    "experiments/paper.yaml": lambda config: named(load_sets("paper", config)),
    "architectures/digits_8x8.yaml": load_shapes,
    "paper_results.csv": lambda config: load_paper_results(config / "paper_results.csv"),
}


@pytest.fixture(scope="session", params=FILES)
def name(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def said(config: Path, name: str, content: bytes) -> str:
    """What the loader refuses the file with, or nothing; the file is as it was afterwards."""
    path = config / name
    before = path.read_bytes()
    path.write_bytes(content)
    try:
        with bounded():
            FILES[name](config)
    except UserError as error:
        assert str(config) in str(error)
        assert len(str(error)) < 200_000
        str(error).encode()
        return str(error)
    finally:
        path.write_bytes(before)
        assert not Path("executed").exists()
    return ""


@cache
def original(name: str) -> str:
    """The file, short enough to be read often."""
    text = (CONFIG / name).read_text()
    if name == "datasets.yaml":
        return text[text.index("datasets:\n") : text.index("  mnist_static:")]
    return "\n".join(text.splitlines()[:20]) + "\n" if name.endswith(".csv") else text


@cache
def plain(name: str) -> Any:
    return yaml.safe_load(original(name))


@given(data=st.data())
def test_a_spoilt_file_is_read_or_refused(config: Path, name: str, data: st.DataObject) -> None:
    said(config, name, data.draw(spoilt(original(name).encode())))


def places(node: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Paths of all values of a nested structure."""
    yield path
    for key, value in node.items() if isinstance(node, dict) else enumerate(node) if isinstance(node, list) else ():
        yield from places(value, (*path, key))


MARKER = "MARKER"


@given(data=st.data())
def test_a_hostile_value_in_any_place_is_read_or_refused(config: Path, name: str, data: st.DataObject) -> None:
    if name.endswith(".csv"):
        cells = [line.split(",") for line in original(name).splitlines()]
        line = data.draw(st.sampled_from(cells))
        line[data.draw(st.integers(0, len(line) - 1))] = data.draw(st.sampled_from(SCALARS))
        said(config, name, "\n".join(map(",".join, cells)).encode())
        return
    content = copy.deepcopy(plain(name))
    drawn: tuple[Any, ...] = data.draw(st.sampled_from(sorted(places(content), key=str)))
    *parents, last = ("", *drawn)
    whole = inner = {"": content}
    for key in parents:
        inner = inner[key]
    if data.draw(st.booleans()) and isinstance(inner, dict):
        inner[MARKER] = inner.pop(last)
    else:
        inner[last] = MARKER
    text = yaml.safe_dump(whole.get("", MARKER))
    said(config, name, text.replace(MARKER, data.draw(st.sampled_from(SCALARS))).encode())


@pytest.mark.parametrize("bomb", [LAUGHS, MERGES], ids=["aliases", "merged aliases"])
@pytest.mark.parametrize("letter", "ceg")
def test_aliases_that_stand_for_more_than_the_memory_holds(config: Path, name: str, bomb: str, letter: str) -> None:
    if name.endswith(".csv"):
        pytest.skip("no YAML")
    anchored = bomb[: bomb.index(f"\n{letter}:") + 1]
    last = chr(ord(letter) - 1)
    for content in (original(name), "{}\n"):
        assert said(config, name, f"{anchored}runs: *{last}\nsets: *{last}\ndatasets: *{last}\n".encode())
        assert said(config, name, (anchored + content).encode())


@pytest.mark.parametrize("first", ["", "*s, "], ids=["", "that holds itself"])
def test_many_short_aliases_of_a_long_list(config: Path, first: str) -> None:
    seeds = f"seeds: &s [{first}{'1, ' * 10_000}]"
    runs = "[" + "{dataset: digits, architecture: digits_8x8, model: vae, seeds: *s}, " * 10_000 + "]"
    message = said(config, "experiments/quick.yaml", f"x: {{{seeds}}}\nruns: {runs}\n".encode())
    assert "more than 50,000 values" in message


def test_a_key_given_twice_is_refused_and_both_lines_are_named(config: Path) -> None:
    lines = original("experiments/quick.yaml").splitlines()
    first = next(number for number, line in enumerate(lines, 1) if line.strip().startswith("learning_rate:"))
    lines.insert(first + 1, lines[first - 1].replace("0.01", "0.02"))
    message = said(config, "experiments/quick.yaml", "\n".join(lines).encode())
    assert f"'learning_rate' is there twice, in lines {first} and {first + 2}" in message


def test_a_key_may_stand_in_many_sections_and_before_what_is_merged(config: Path, tmp_path: Path) -> None:
    """What is merged is a default; a key that overrides it is no repetition."""
    text = original("experiments/quick.yaml")
    run = "{dataset: digits, architecture: digits_8x8, model: %s, seeds: [1, 2]}"
    assert run % "vae" in text and run % "lvae" in text
    text = text.replace(run % "vae", f"&first {run % 'vae'}").replace(run % "lvae", "{model: lvae, <<: *first}")
    merged = shutil.copytree(config, tmp_path / "config")
    (merged / "experiments/quick.yaml").write_text(text)
    assert load_experiments("quick", merged) == load_experiments("quick", config)


QUICK, DATASETS, DIGITS = "experiments/quick.yaml", "datasets.yaml", "architectures/digits_8x8.yaml"


@pytest.mark.parametrize(
    ("name", "before", "after", "expected"),
    [
        *(
            (QUICK, "max_updates: 1560", f"max_updates: {number}", "is not valid YAML")
            for number in ("9" * 5000, "0x" + "f" * 100, str(2**63), str(-(2**70)))
        ),
        (QUICK, "learning_rate: 0.01\n", "learning_rate: .inf\n", "- training.learning_rate:"),
        (QUICK, "learning_rate: 0.01\n", "betas: [0.9, .nan]\n", "- training.betas.1:"),
        (QUICK, "learning_rate: 0.01\n", "betas: [0.9, 1.0]\n", "- training.betas.1:"),
        (QUICK, "threads: 1\n", "threads: 1000000000000\n", "- threads:"),
        (DIGITS, "[1, 8, 8]", "[2, 8, 8]", "input_shape: images have 1 channel or 3, got 2"),
        (DATASETS, "binarisation: dynamic", "binarisation: static", "levels must be 2, got 17"),
        (DATASETS, "levels: 17", "level: 17", "unknown key with value 17; allowed here: binarisation, citation, files"),
        (DATASETS, "sha256:", "sha265:", "files.0.sha265: unknown key with value '6ebb"),
        *(
            (file, "shape: [1, 8, 8]", f"shape: {shape}", f"- {key}")
            for file, key in ((DATASETS, "datasets.digits.shape"), (DIGITS, "input_shape"))
            for shape in ([0, 8, 8], [1, -8, -8], [1, 8])
        ),
        *(
            (DATASETS, "name: digits.csv", f"name: {file!r}", "files.0.name")
            for file in ("..", ".", ".hidden", "a/b", "a\\b", "")
        ),
    ],
)
def test_a_value_that_nothing_can_take_is_refused(
    config: Path, name: str, before: str, after: str, expected: str
) -> None:
    assert before in original(name)
    assert expected in said(config, name, original(name).replace(before, after, 1).encode())


@pytest.mark.parametrize("name", [QUICK, DIGITS])
@pytest.mark.parametrize("value", [True, False])
def test_yes_and_no_are_no_number_and_no_text(config: Path, name: str, value: bool) -> None:
    """pydantic takes them for 1 and 0."""
    for place in places(plain(name)):
        content = copy.deepcopy(plain(name))
        *parents, last = ("", *place)
        whole = inner = {"": content}
        for key in parents:
            inner = inner[key]
        if isinstance(inner[last], int | float | str):
            inner[last] = value
            assert "YAML reads yes, no, on and off" in said(config, name, yaml.safe_dump(whole[""]).encode()), place


@pytest.mark.parametrize("value", ["a;touch executed", "../x", "$(id)", "a b", "A", "\\input{x}", "é", "", "a\n"])
def test_whatever_becomes_part_of_a_path_is_a_plain_name(config: Path, value: str) -> None:
    places = "runs.0.dataset runs.0.architecture runs.0.model runs.0.seeds.0 tables.0.name tables.0.dataset figures.0"
    places += " anomalies.0.name anomalies.0.anomalous anomalies.0.choose_k_on"
    places += " semi_supervised.0.name semi_supervised.0.dataset"
    for place in places.split():
        content = copy.deepcopy(plain(QUICK))
        put(place, value)(content)
        assert f"- {place}:" in said(config, QUICK, yaml.safe_dump(content).encode())


@pytest.mark.parametrize("name", ["../experiments/quick", "quick\n", "a" * 5000, "a\0b", "", ".", "QUICK", "quick; id"])
def test_a_name_on_the_command_line_is_no_path(config: Path, name: str) -> None:
    for load in (load_experiments, load_sets, load_architecture):
        with pytest.raises(UserError, match="are at most 100 of a-z, 0-9 and _") as caught:
            load(name, config)
        assert len(str(caught.value)) < 1000


def test_a_mirror_that_no_environment_variable_can_hold_is_refused() -> None:
    with pytest.raises(UserError, match="data_mirror"):
        parse(MainConfig, {"experiments": "quick", "data_mirror": "a\0b"}, "config.yaml")


def test_what_cannot_be_read_is_named(config: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Path, "read_bytes", Mock(side_effect=OSError(5, "Input/output error")))
    with pytest.raises(OSError, match=r"Input/output error: '.*config\.yaml'"):
        load_main(config)


def test_a_file_of_gigabytes_is_refused_before_it_is_read(config: Path) -> None:
    path = config / "architectures" / "large.yaml"
    with path.open("wb") as file:
        file.truncate(1 << 40)  # takes no space on the disk
    with bounded(), pytest.raises(UserError, match=r"large\.yaml is longer than 1,048,576 bytes"):
        load_architecture("large", config)
    path.unlink()
