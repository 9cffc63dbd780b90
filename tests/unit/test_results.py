"""The results frame: what the records say, in a fixed order, and the same bytes after every rebuild."""

from __future__ import annotations

import hashlib
import os
import shutil
from pathlib import Path

import pandas as pd
import pytest

from biva.config import AnomalyPair
from biva.errors import UserError
from biva.records import RunFolder, read_json, write_json
from biva.reporting.results import collect, load_paper_results, name_tracked, read_results, write_results
from tests.fake_runs import IMAGES, anomaly_record, edit, fake_config, fake_run
from tests.unit.test_likelihood_table import PAPER

HEADER = (
    "experiments,dataset,architecture,model,seed,metric,k,value,standard_error,low,high,unit,protocol,run_id,mlflow_run_id,"
    "manifest,commit,config_digest,evaluation_digest,data_fingerprint,device,parameters,updates,images_seen,images_evaluated,"
    "images_in_split,selection_images,selection_images_in_split,wall_seconds"
)


def test_a_row_says_what_the_records_say(tmp_path: Path) -> None:
    config = fake_config("biva", 3)
    folder = fake_run(tmp_path, config, bounds={1000: (-24.1, 0.1)}, run_id="ab" * 16, commit="0123abc-dirty")
    write_results(collect([folder]), tmp_path / "results.csv")
    lines = (tmp_path / "results.csv").read_text().splitlines()
    assert lines[0] == HEADER
    # 0.1 + 0.2 seconds of training must keep all their digits; 50 updates of batch 4 saw 200 images.
    manifest = hashlib.sha256(folder.manifest.read_bytes()).hexdigest()
    settings = b'{"importance_samples": [1000], "max_images": null, "temperatures": [1.0, 0.5]}'
    made = f"{manifest},0123abc-dirty,{config.digest},{hashlib.sha256(settings).hexdigest()[:16]}"
    tail = f"clean,{'ab' * 16},,{made},{'f' * 64},cpu,1234,50,200,5,5,3,7,0.30000000000000004"
    assert lines[1:] == [
        f"quick,digits,digits_8x8,biva,3,active_units,,7.0,,,,units,{tail}",
        f"quick,digits,digits_8x8,biva,3,kl_divergence,1,5.0,0.1,,,nats,{tail}",
        f"quick,digits,digits_8x8,biva,3,log_likelihood_bound,1000,-24.1,0.1,,,nats,{tail}",
    ]


def test_a_run_that_mlflow_got_later_is_named_in_results_that_were_there(tmp_path: Path) -> None:
    early, late = (fake_run(tmp_path, fake_config(seed=seed), bounds={1: (-25.0, 0.5)}) for seed in (1, 2))
    write_json(early.mlflow, {"run_id": "e" * 32})
    path = tmp_path / "results.csv"
    write_results(collect([early, late]), path)
    assert read_results(path).groupby("seed")["mlflow_run_id"].unique().map(list).to_list() == [["e" * 32], [""]]
    os.utime(path, ns=(10**18, 10**18))
    write_json(late.mlflow, {"run_id": "f" * 32})
    name_tracked(path, {read_json(late.identity)["run_id"]: "f" * 32})
    pd.testing.assert_frame_equal(read_results(path), collect([early, late]))
    assert path.stat().st_mtime_ns == 10**18  # else Snakemake would make all tables anew


def test_every_commit_that_had_a_part_in_a_row_is_named(tmp_path: Path) -> None:
    folder = fake_run(tmp_path, bounds={1: (-25.0, 0.1)}, commit="aaaa")
    edit(folder.identity, resumed=[{"commit": "bbbb"}, {"commit": "aaaa"}])
    edit(folder.evaluation, commit="cccc-dirty")
    assert set(collect([folder])["commit"]) == {"aaaa bbbb cccc-dirty"}


def test_a_run_under_two_names_is_refused(tmp_path: Path) -> None:
    folder = fake_run(tmp_path, fake_config(seed=1), bounds={1: (-25.0, 0.1)})
    copy = RunFolder(folder.path.with_name("seed2"))
    shutil.copytree(folder.path, copy.path)
    with pytest.raises(UserError, match=r"seed2 and .*seed1 hold the records of one run"):
        collect([folder, copy])


def test_anomaly_pairs_give_a_row_per_score_and_metric_and_the_chosen_score_rows_of_its_own(tmp_path: Path) -> None:
    """LLR^{>2} was chosen on other images; its numbers are those on the test images of the pair."""
    folder = fake_run(tmp_path, bounds={})
    pair = AnomalyPair(
        name="photos", normal="digits", anomalous="photo_patches", importance_samples=20, choose_k_on="other"
    )
    aurocs = {"L>0": (0.5, 0.25, 0.75), "LLR>1": (0.875, 0.5, 1.0), "LLR>2": (0.75, 0.5, 1.0)}
    write_json(folder.anomaly("photos"), anomaly_record(pair, aurocs, images=(5, 7)))
    frame = collect([folder])
    of_pairs = frame[frame["metric"].str.startswith("anomaly/")]
    numbers = of_pairs[["metric", "value", "low", "high"]].itertuples(index=False)
    llr_2 = {"auprc": [0.075, 0.05, 0.1], "auroc": [0.75, 0.5, 1.0], "fpr80": [0.25, 0.0, 0.5]}
    assert {name.removeprefix("anomaly/photos/"): row for name, *row in numbers} == {
        "bound_above_0/auprc": [0.05, 0.025, 0.075],
        "bound_above_0/auroc": [0.5, 0.25, 0.75],
        "bound_above_0/fpr80": [0.5, 0.25, 0.75],
        "llr_above_1/auprc": [0.0875, 0.05, 0.1],
        "llr_above_1/auroc": [0.875, 0.5, 1.0],
        "llr_above_1/fpr80": [0.125, 0.0, 0.5],
    } | {f"{score}/{metric}": row for score in ("llr_above_2", "chosen") for metric, row in llr_2.items()}
    common = of_pairs[["k", "unit", "images_evaluated", "images_in_split"]].drop_duplicates()
    assert common.to_numpy().tolist() == [[20, "fraction", 12, 4000]]
    assert of_pairs["standard_error"].isna().all()
    assert set(frame[~frame["metric"].str.startswith("anomaly/")]["images_evaluated"]) == {IMAGES}


def test_rows_are_sorted_by_dataset_model_seed_and_k_in_any_order_of_folders(tmp_path: Path) -> None:
    bounds = {1000: (-24.0, 0.1), 10: (-24.5, 0.1), 1: (-25.0, 0.1)}
    configs = [fake_config("biva", 1), fake_config("vae", 10), fake_config("vae", 2), fake_config("lvae_plus", 1),
               fake_config("vae", 1, dataset="a_dataset"), fake_config("lvae", 1)]  # fmt: skip
    folders = [fake_run(tmp_path, config, bounds=bounds) for config in configs]
    frame = collect(folders)
    runs = list(dict.fromkeys(zip(frame["dataset"], frame["model"], frame["seed"], strict=True)))
    assert runs == [("a_dataset", "vae", 1), ("digits", "vae", 2), ("digits", "vae", 10), ("digits", "lvae", 1),
                    ("digits", "lvae_plus", 1), ("digits", "biva", 1)]  # fmt: skip
    first = frame[(frame["model"] == "biva") & (frame["metric"] == "log_likelihood_bound")]
    assert list(first["k"]) == [1, 10, 1000]
    pd.testing.assert_frame_equal(frame, collect(folders[::-1]))


def test_reading_and_writing_again_gives_the_same_bytes_and_numbers(tmp_path: Path) -> None:
    awkward = {1: (-0.1 - 0.2, 5e-324), 2: (-1 / 3 * 1e17, 1.7976931348623157e308), 3: (float("nan"), 0.1)}
    # Texts that a reader could take for a number or for a missing value.
    folder = fake_run(tmp_path, bounds=awkward, run_id="1" * 32, commit="1e5", device="NA")
    edit(folder.identity, config_digest="0001234567890123")
    frame = collect([folder])
    write_results(frame, tmp_path / "first.csv")
    again = read_results(tmp_path / "first.csv")
    pd.testing.assert_frame_equal(frame, again, check_exact=True)
    assert again[["commit", "device", "config_digest"]].to_numpy()[0].tolist() == ["1e5", "NA", "0001234567890123"]
    write_results(again, tmp_path / "second.csv")
    assert (tmp_path / "first.csv").read_bytes() == (tmp_path / "second.csv").read_bytes()


def test_a_run_without_evaluation_gives_no_row_and_no_runs_give_an_empty_table(tmp_path: Path) -> None:
    frame = collect([fake_run(tmp_path)])
    write_results(frame, tmp_path / "results.csv")
    assert (tmp_path / "results.csv").read_text() == HEADER + "\n"
    pd.testing.assert_frame_equal(read_results(tmp_path / "results.csv"), frame)


def test_a_record_that_lacks_a_field_is_refused_by_name(tmp_path: Path) -> None:
    folder = fake_run(tmp_path, bounds={1: (-25.0, 0.1)})
    folder.training.write_text("{}")
    with pytest.raises(UserError, match=r"train\.json lacks the field 'updates'"):
        collect([folder])
    folder = fake_run(tmp_path / "other", bounds={1: (-25.0, 0.1)})
    edit(folder.evaluation, metrics=5)
    with pytest.raises(UserError, match=r"seed1 does not hold what biva writes there \(TypeError"):
        collect([folder])


@pytest.mark.parametrize("content", ["", "a,b\n1,2\n", HEADER + "\n" + "x," * 27 + "1\n"])
def test_a_file_that_is_no_results_table_is_refused(content: str, tmp_path: Path) -> None:
    (tmp_path / "results.csv").write_text(content)
    with pytest.raises(UserError, match=r"results\.csv .*`biva collect"):
        read_results(tmp_path / "results.csv")
    with pytest.raises(UserError, match="does not exist"):
        read_results(tmp_path / "other.csv")


def test_the_papers_results_are_read_with_their_gaps() -> None:
    by_model = PAPER[PAPER["table"] == "static_mnist"].set_index("model")
    assert by_model.loc["BIVA", "value"].tolist() == [-81.2, -78.67]
    assert by_model.loc["BIVA", "k"].tolist() == [1, 1000]
    assert by_model.loc["VLAE", "k"] is pd.NA


def test_an_unknown_confirmation_is_refused_with_its_line(tmp_path: Path) -> None:
    lines = (Path(__file__).parents[2] / "config" / "paper_results.csv").read_text().splitlines()
    lines[2] = lines[2].replace(",no", ",maybe")
    (tmp_path / "paper.csv").write_text("\n".join(lines) + "\n")
    with pytest.raises(UserError, match="line 3: confirmed is 'maybe'; allowed: yes, no, value only"):
        load_paper_results(tmp_path / "paper.csv")
