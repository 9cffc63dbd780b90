"""`manifest.json`: every step enters what it wrote, and nothing else."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

from biva.errors import UserError
from biva.records import manifest_digest, read_json, read_lines, seal
from tests.fake_runs import edit, fake_run


def test_a_field_that_a_record_or_its_line_lacks_is_named_with_the_file(tmp_path: Path) -> None:
    folder = fake_run(tmp_path)
    for record in (read_json(folder.identity), read_json(folder.identity)["config"], read_lines(folder.record)[0]):
        assert record == {**record}
        assert record.get("nothing") is None
        with pytest.raises(UserError, match=r"(run\.json|record\.jsonl) lacks the field 'nothing'.*Restore it"):
            record["nothing"]


def test_a_later_step_does_not_hide_what_was_changed_before_it(tmp_path: Path) -> None:
    folder = fake_run(tmp_path)
    written = hashlib.sha256(folder.training.read_bytes()).hexdigest()
    edit(folder.training, updates=999)
    folder.arrays.write_bytes(b"arrays")
    seal(folder, [folder.arrays])
    files = read_json(folder.manifest)["files"]
    assert files["train.json"] == written
    assert files["evaluation.safetensors"] == hashlib.sha256(b"arrays").hexdigest()
    assert set(files) == {"run.json", "record.jsonl", "train.json", "evaluation.safetensors"}
    assert manifest_digest(folder) == hashlib.sha256(folder.manifest.read_bytes()).hexdigest()


def test_another_run_in_the_folder_starts_a_manifest_of_its_own(tmp_path: Path) -> None:
    folder = fake_run(tmp_path, bounds={1: (-25.0, 0.1)})
    edit(folder.identity, run_id="another")
    seal(folder, [folder.identity])
    assert set(read_json(folder.manifest)["files"]) == {"run.json"}
    assert read_json(folder.manifest)["run_id"] == "another"


def test_a_run_without_a_manifest_has_no_digest(tmp_path: Path) -> None:
    folder = fake_run(tmp_path)
    folder.manifest.unlink()
    with pytest.raises(UserError, match=r"manifest\.json does not exist"):
        manifest_digest(folder)
