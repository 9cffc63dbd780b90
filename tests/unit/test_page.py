"""The page of a set, parsed: what it says, where its links lead, that nothing on it is without words."""

from __future__ import annotations

import base64
import shutil
from dataclasses import dataclass, field
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote

import pytest

from biva.config import RunConfig
from biva.records import PUBLISHED, RunFolder, read_json, write_json
from biva.reporting.markup import text
from biva.reporting.strips import strips
from biva.reporting.table import Cell, Table
from biva.reporting.texts import write_page
from tests.fake_runs import anomaly_record, fake_config, fake_run, fake_set, fake_test_error, labelled_config

VOID = {"meta", "img", "br", "link", "input"}
BOUNDS = {1: (-25.0, 0.5), 1000: (-24.0, 0.25)}
RUNS = [fake_config(model, seed) for model in ("vae", "biva") for seed in (1, 2)]
LABELLED = [labelled_config(model) for model in ("biva", "classifier")]
PNG = b"\x89PNG a picture"


@dataclass
class Node:
    tag: str
    attributes: dict[str, str | None]
    inside: list[Node | str] = field(default_factory=list)

    def all(self, *tags: str) -> list[Node]:
        below = [node for one in self.inside if isinstance(one, Node) for node in (one, *one.all())]
        return [node for node in below if not tags or node.tag in tags]

    @property
    def text(self) -> str:
        return "".join(one if isinstance(one, str) else one.text for one in self.inside)


class Page(HTMLParser):
    """The tree of a page in which every tag is closed where it was opened."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.root = Node("", {})
        self._open = [self.root]
        self.feed(path.read_text(encoding="utf-8"))
        assert self._open == [self.root], f"{self._open[-1].tag} is not closed"

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        node = Node(tag, dict(attrs))
        self._open[-1].inside.append(node)
        if tag not in VOID:
            self._open.append(node)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self._open[-1].inside.append(Node(tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop().tag == tag

    def handle_data(self, data: str) -> None:
        self._open[-1].inside.append(data)

    def with_id(self, name: str) -> Node:
        (node,) = [node for node in self.root.all() if node.attributes.get("id") == name]
        return node


SET = {
    "semi_supervised": [
        {"name": "labels_50", "dataset": "digits", "architecture": "digits_8x8", "labels": 50, "seeds": [1]}
        | {"label_batch_size": 5, "label_weight": 10}
    ],
    "figures": ["samples", "layers", "learning_curves"],
}


def written(folder: Path, runs: list[RunConfig] = RUNS + LABELLED, **changes: object) -> Page:
    return Page(write_page(fake_set(**SET | changes), runs, folder / "runs", folder, folder))


@pytest.fixture(scope="module")
def complete(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A set with all runs evaluated and two of its three figures."""
    folder = tmp_path_factory.mktemp("complete") / "set"
    pair = fake_set().anomalies[0]
    for run in RUNS:
        made = fake_run(folder / "runs", run, bounds={k: (value - run.seed, se) for k, (value, se) in BOUNDS.items()})
        aurocs = {f"L>{k}": (0.5, 0.25, 0.75) for k in range(3)} | {f"LLR>{k}": (0.75, 0.5, 1.0) for k in (1, 2)}
        write_json(made.anomaly(pair.name), anomaly_record(pair, aurocs))
    for run in LABELLED:
        fake_test_error(folder / "runs", run, 20.0)
    (folder / "figures").mkdir()
    for name in ("samples", "layers"):
        (folder / f"figures/{name}.png").write_bytes(PNG)
    return folder


def part_of_it(folder: Path) -> None:
    """One run in training, one trained, one evaluated, the others not begun."""
    fake_run(folder / "runs", RUNS[0], trained=False, updates=30)
    fake_run(folder / "runs", RUNS[1])
    fake_run(folder / "runs", RUNS[2], bounds=BOUNDS)


@pytest.mark.parametrize("kind", ["complete", "published", "nothing run", "part of it", "no tables"])
def test_everything_has_words_and_every_link_a_target(complete: Path, tmp_path: Path, kind: str) -> None:
    folder, changes = tmp_path / (f"{PUBLISHED}/set" if kind == "published" else "set"), {}
    if kind in ("complete", "published"):
        shutil.copytree(complete, folder)
    elif kind != "nothing run":
        part_of_it(folder)
    if kind == "no tables":
        changes = dict.fromkeys(("tables", "semi_supervised", "anomalies", "figures"), ())
    runs = RUNS if changes else RUNS + LABELLED
    page = written(folder, runs, **changes)
    (html,) = page.root.all("html")
    assert html.attributes["lang"] == "en"
    assert [title.text for title in html.all("title", "h1")] == ["quick: results", "quick"]
    ids = [node.attributes["id"] for node in html.all() if "id" in node.attributes]
    assert len(ids) == len(set(ids))
    for link in html.all("a"):
        target = unquote(link.attributes["href"] or "")
        assert link.text.strip()
        assert target.removeprefix("#") in ids if target.startswith("#") else (folder / target).is_file()
    below = [inner for outer in html.all("svg") for inner in outer.all("svg")]
    for drawing in [one for one in html.all("svg") if not any(one is inner for inner in below)]:
        assert drawing.attributes.get("aria-hidden") == "true" or drawing.attributes["aria-label"]
    for picture in html.all("img"):
        assert (picture.attributes["alt"] or "").strip()
        assert (picture.attributes["src"] or "").startswith("data:image/png;base64,")
    for table in html.all("table"):
        assert table.all("caption")[0].text.strip()
        assert all(heading.attributes["scope"] and heading.text.strip() for heading in table.all("th"))
    assert not html.all("link", "iframe", "object")
    for run in runs:
        assert page.with_id(run.group).all("h3")


def test_a_number_leads_to_the_runs_that_gave_it_and_they_to_their_records(complete: Path) -> None:
    page = written(complete)
    links = {link.text: link.attributes["href"] for link in page.with_id("table-likelihood").all("a")}
    # Seeds 1 and 2 of both models: -26 and -27; -25 and -26. Their sample standard deviation is 1/sqrt(2).
    assert links["−26.50±0.71 (2)"] == "#digits/digits_8x8/biva"
    numbers = [link.text for name in ("labels_50", "photos") for link in page.with_id(f"table-{name}").all("a")]
    assert numbers[:2] == ["20.00±1.00se (1)"] * 2
    assert numbers.count("0.500±0.000 (2)") == 2 * 3 * 2  # models, scores; AUROC and FPR80
    section = page.with_id("digits/digits_8x8/biva")
    facts = {row.all("th")[0].text: [cell.text for cell in row.all("td")] for row in section.all("tr") if row.all("th")}
    assert facts["State"] == ["evaluated", "evaluated"]
    assert facts["L1 (nats)"] == ["−26.000±0.500", "−27.000±0.500"]
    ids = [read_json(RunFolder(complete / "runs" / run.name).identity)["run_id"] for run in RUNS[2:]]
    assert facts["Run id"] == ids
    assert facts["Commit"] == ["0123abc"] * 2
    assert facts["Data"] == ["f" * 12] * 2
    assert facts["training.batch_size"] == ["4"]
    (drawing,) = [one for one in section.all("svg") if one.attributes.get("role") == "img"]
    assert len(drawing.all("polyline")) == 2
    assert "seed 2 ends at −22.50 after 50 updates" in (drawing.attributes["aria-label"] or "")
    records = [link.attributes["href"] for link in section.all("a")]
    assert f"runs/{RUNS[2].name}/run.json" in records
    assert f"runs/{RUNS[2].name}/anomaly/photos.json" in records


def test_what_has_not_run_is_named_so(tmp_path: Path) -> None:
    part_of_it(tmp_path)
    page = written(tmp_path)
    states = {
        run.group: [cell.text for row in page.with_id(run.group).all("tr") if row.all("th")[0].text == "State"
                    for cell in row.all("td")]
        for run in RUNS + LABELLED[:1]
    }  # fmt: skip
    assert states == {
        "digits/digits_8x8/vae": ["in training: update 30 of at most 1,000", "trained; evaluation not run"],
        "digits/digits_8x8/biva": ["evaluated", "not run"],
        "digits/digits_8x8/biva_50_labels": ["not run"],
    }
    assert "1 of 6 evaluated" in page.root.text
    assert page.with_id("table-labels_50").text.count("not run") == 3
    assert "Learning curves: not run." in page.root.text


def test_pictures_are_inside_and_those_of_a_published_set_are_not(complete: Path, tmp_path: Path) -> None:
    shown = [image.attributes["src"] for image in written(complete).root.all("img")]
    assert shown == [f"data:image/png;base64,{base64.b64encode(PNG).decode()}"] * 2
    published = shutil.copytree(complete, tmp_path / PUBLISHED / "set")
    assert not written(published).root.all("img")


def test_the_same_records_give_the_same_bytes(complete: Path, tmp_path: Path) -> None:
    for folder in ("one", "other"):
        write_page(fake_set(**SET), RUNS + LABELLED, complete / "runs", tmp_path / folder, complete)
    assert (tmp_path / "one/index.html").read_bytes() == (tmp_path / "other/index.html").read_bytes()


def test_hostile_texts_are_shown_and_not_obeyed(tmp_path: Path) -> None:
    hostile = """</p><script>alert('1')</script>"><img src=x onerror="alert(2)"> {{ 7*7 }} &amp; --> 中"""
    runs = [
        run.model_copy(update={"architecture": run.architecture.model_copy(update={"description": hostile})})
        for run in RUNS
    ]
    for run in runs:
        fake_run(tmp_path / "runs", run, device=hostile, commit=hostile, bounds=BOUNDS)
    page = written(tmp_path, runs + LABELLED, description=hostile)
    assert len(page.root.all("script")) == 1
    assert not page.root.all("img")
    assert not [name for node in page.root.all() for name in node.attributes if name.startswith("on")]
    (header,) = page.root.all("header")
    assert header.all("p")[0].text == hostile
    assert page.with_id("digits/digits_8x8/vae").text.count(hostile) >= 3


def test_dots_stand_where_the_numbers_are_and_the_distance_beside_them() -> None:
    """On a scale from the lowest end to the highest, at 6% and 6% + 76% of the width."""

    def ours(value: float) -> Cell:
        return Cell(value=value, spread=1.0, of=("a",))

    def step(value: float) -> Cell:
        return Cell(value=value, interval=(value - 1, value + 3), of=("a", "b"), columns=2)

    heads = [[Cell(), Cell("K = 1", columns=2)], [Cell("Model"), Cell("ours"), Cell("reported")]]
    rows = [[Cell("A"), ours(-9.0), Cell(value=0.0)], [Cell("B"), ours(-4.0), Cell("–")]]
    found = strips(Table("t", text(""), heads, [rows, [[Cell("A − B"), step(1.0)]]], []))
    values, steps = found["rows"]
    assert [(dot["low"], dot["value"], dot["high"]) for dot in values[0]] == [(6, 13.6, 21.2), (82, 82, 82)]
    assert [(dot["low"], dot["value"], dot["high"]) for dot in values[1]] == [(44, 51.6, 59.2)]
    assert [dot["distance"] for dot in values[0]] == ["", "−9.00"]
    assert [(dot["low"], dot["value"], dot["high"]) for dot in steps[0]] == [(6, 25, 82)]  # of 0 to 4
    assert found["lanes"] == ["K = 1"]
    assert strips(Table("t", text(""), heads, [[[Cell("A"), Cell("not run"), Cell("–")]]], [])) == {}
