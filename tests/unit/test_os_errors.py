"""What the operating system refuses, and files that are none of ours: one clear message, or none at all."""

from __future__ import annotations

import errno
import fcntl
import os
import threading
from pathlib import Path
from unittest.mock import Mock

import numpy as np
import pytest
import torch
from filelock import FileLock
from safetensors.numpy import save_file

from biva import locks
from biva.config import AnomalyPair
from biva.data import array_file
from biva.data.array_file import map_arrays
from biva.errors import UserError, explained, naming
from biva.locks import locked
from biva.records import RunFolder, is_ours, write_atomically, write_json
from biva.reporting.results import collect
from biva.training import checkpoint
from tests.commands import status_of
from tests.fake_runs import anomaly_record, fake_config, fake_run

ROOT = Path(__file__).parents[2]
BOUNDS = {1: (-25.0, 0.5), 1000: (-24.0, 0.25)}
UNREADABLE = Path("/proc/self/mem")
"""A file that anybody may open, and of which nobody can read the first byte."""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> RunFolder:
    """An evaluated run in a project that has nothing else, which is the current folder."""
    (tmp_path / "config").symlink_to(ROOT / "config")
    monkeypatch.chdir(tmp_path)
    return fake_run(Path("results/quick/runs"), fake_config(), bounds=BOUNDS)


def test_every_error_names_the_place_the_reason_and_what_to_do(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(ROOT)
    for number in errno.errorcode.keys() - {errno.EPIPE}:  # a reader that has gone is no error of ours
        error = OSError(number, os.strerror(number), "some/place", None, "another")
        monkeypatch.setattr("biva.cli.load_experiments", Mock(side_effect=error))
        assert status_of("collect", "quick") == 1
        (message,) = capsys.readouterr().err.splitlines()
        assert message.startswith(f"error: some/place: another: {os.strerror(number)}. ")
        assert message.endswith(", then run the same command again.")


@pytest.mark.parametrize(
    ("number", "remedy"),
    [
        (errno.EACCES, "Ask the owner"),
        (errno.EROFS, "Use a copy elsewhere"),
        (errno.EDQUOT, "Free some space"),
        (errno.EISDIR, "Move it away"),
        (errno.ENOLCK, "such as a local disk"),
        (errno.ESTALE, "Wait until it does"),
        (errno.ENAMETOOLONG, "shorter path"),
    ],
)
def test_what_helps_depends_on_the_error(number: int, remedy: str) -> None:
    assert remedy in explained(OSError(number, os.strerror(number)))


@pytest.mark.skipif(not UNREADABLE.exists(), reason="no such file on this system")
@pytest.mark.parametrize(
    ("file", "command"),
    [
        *(("run.json", verb) for verb in ("collect quick", "figure quick learning_curves", "verify quick")),
        ("train.json", "collect quick"),
        ("evaluation.json", "collect quick"),
        ("manifest.json", "collect quick"),
        ("record.jsonl", "figure quick learning_curves"),
        ("bounds.safetensors", "table quick likelihood"),
        ("evaluation.safetensors", "figure quick samples"),
        ("run.json", "track results/quick/runs/digits/digits_8x8/biva/seed1"),
    ],
)
def test_a_record_that_cannot_be_read_is_named(
    file: str, command: str, folder: RunFolder, capsys: pytest.CaptureFixture[str]
) -> None:
    if command.startswith("table"):
        assert status_of("collect", "quick") == 0
    path = folder.path / file
    path.unlink()
    path.symlink_to(UNREADABLE)
    assert status_of(*command.split()) == 1
    printed = capsys.readouterr()
    assert f"{path}: {os.strerror(errno.EIO)}. The disk" in printed.err + printed.out
    assert "OSError" not in printed.err + printed.out


def test_names_of_files_that_open_gives_are_kept(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError) as error, naming(Path("other")):
        (tmp_path / "nothing").read_bytes()
    assert error.value.filename == str(tmp_path / "nothing")


def test_a_file_that_cannot_be_written_has_its_own_name_and_not_the_temporary_one(tmp_path: Path) -> None:
    (tmp_path / f".table.tex.{os.getpid()}.tmp").mkdir()
    with pytest.raises(IsADirectoryError) as error:
        write_atomically(tmp_path / "table.tex", b"")
    assert explained(error.value).startswith(f"{tmp_path / 'table.tex'}: Is a directory. Something else has this name")


# --------------------------------------------------------------------------------------------------------------- locks


def test_who_waits_for_a_lock_says_for_whom_and_that_deleting_it_helps(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    path, held = tmp_path / ".lock", threading.Event()
    left = FileLock(path)  # by a killed job, of which the file server does not know that it is no more
    left.acquire()
    path.write_text("4242\nnode7\n")

    def hold() -> None:
        with locked(path, "another process trains this run"):
            held.set()

    thread = threading.Thread(target=hold, daemon=True)
    thread.start()
    assert not held.wait(0.2)
    path.unlink()
    assert held.wait(30)
    thread.join()
    message = capfd.readouterr().err
    assert message.startswith(f"{tmp_path}: another process trains this run; waiting for it to end. It is process 4242")
    assert "on node7, since 20" in message
    assert f"(`ps -p 4242` there), delete {path}." in message
    left.release()


def test_a_lock_has_the_number_and_the_host_of_its_process(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(locks, "SECONDS", 0.1)
    with locked(tmp_path / "lock"):
        assert (tmp_path / "lock").read_text().split() == [str(os.getpid()), os.uname().nodename]
        with (
            pytest.raises(UserError, match=rf"It is process {os.getpid()} on .* delete .*/lock\."),
            locked(tmp_path / "lock"),
        ):
            pass
    with locked(tmp_path / "lock"):
        pass


def test_a_file_system_without_locks_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fcntl, "flock", Mock(side_effect=OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))))
    with pytest.raises(OSError, match="lock") as error, locked(tmp_path / "lock", "something"):
        pass
    assert explained(error.value).startswith(f"{tmp_path}/lock: {os.strerror(errno.ENOLCK)}. Its file system cannot")


@pytest.mark.filterwarnings("ignore:flock not supported")
def test_where_there_is_no_flock_a_file_that_is_there_is_the_lock(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fcntl, "flock", Mock(side_effect=OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))))
    monkeypatch.setattr(locks, "SECONDS", 0.1)
    with locked(tmp_path / "lock"):
        pass
    (tmp_path / "lock").write_text("4242\nnode7\n")
    with pytest.raises(UserError, match="It is process 4242 on node7"), locked(tmp_path / "lock"):
        pass
    (tmp_path / "lock").unlink()
    with locked(tmp_path / "lock"):
        pass


# --------------------------------------------------------------------------------------------- files, read and mapped


@pytest.mark.parametrize(
    ("what", "error"),
    [
        ("safe_open", OSError("No such device (os error 19)")),
        ("torch.from_file", RuntimeError("unable to mmap 100 bytes from file <data>: No such device (19)")),
    ],
)
def test_arrays_that_cannot_be_mapped_are_read(
    what: str, error: Exception, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    arrays = {"train/images": np.arange(6, dtype=np.uint8).reshape(1, 1, 2, 3), "train/labels": np.array([7])}
    save_file(arrays | {"test/labels": np.array([], dtype=np.int64)}, tmp_path / "data.safetensors")
    monkeypatch.setattr(f"{array_file.__name__}.{what}", Mock(side_effect=error))
    mapped = map_arrays(tmp_path / "data.safetensors")
    assert torch.equal(mapped["train/images"], torch.arange(6, dtype=torch.uint8).view(1, 1, 2, 3))
    assert mapped["train/labels"].tolist() == [7]
    assert mapped["test/labels"].shape == (0,)


def test_a_checkpoint_that_may_not_be_read_is_not_taken_for_a_damaged_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for _ in range(2):
        checkpoint.save(tmp_path, {"update": 1})
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    monkeypatch.setattr(checkpoint, "_read", Mock(side_effect=PermissionError))
    with pytest.raises(PermissionError):
        checkpoint.load(tmp_path)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


# --------------------------------------------------------------------------------------------- files that are not ours

PAIR = AnomalyPair(name="photos", normal="digits", anomalous="photo_patches", importance_samples=20)


def left_by_others(name: str) -> list[str]:
    """What editors, file managers, sync tools and file servers leave beside a file of this name."""
    stem, _, ending = name.rpartition(".")
    return [
        *(f"._{name}", f".{name}.swp", f".#{name}", f"#{name}#", f"{name}~", f"{name}.bak", f"{name}.orig"),
        *(f"~${name}", f"{stem} (1).{ending}", f"{stem} 2.{ending}", f"{stem} copy.{ending}", f"Copy of {name}"),
        *(f"{stem} (conflicted copy 2026-01-02).{ending}", f"{stem}.sync-conflict-20260102-030405-ABCDEFG.{ending}"),
        *(f".syncthing.{name}.tmp", f".~lock.{name}#", f"{name}.part", f".{name}.Xy12Ab", f"{stem}_conf(2).{ending}"),
        *(".DS_Store", "Thumbs.db", "desktop.ini", ".nfs0000000001", ".fuse_hidden0001", ".dropbox", ".directory"),
        f"{stem}-PC7.{ending}",
    ]


LEFT = sorted({*left_by_others("photos.json"), *left_by_others("weights.safetensors")})


@pytest.mark.parametrize("name", LEFT)
def test_a_name_that_others_give_is_not_ours(name: str) -> None:
    assert not is_ours(Path(name))


def test_records_are_collected_without_what_others_left_beside_them(folder: RunFolder) -> None:
    write_json(folder.anomaly("photos"), anomaly_record(PAIR, {"L>0": (0.5, 0.25, 0.75)}))
    before = collect([folder])
    for name in LEFT:
        (folder.path / "anomaly" / name).write_bytes(folder.anomaly("photos").read_bytes())
        (folder.path / name).write_bytes(b"\0\5\26\7")
    (folder.path / ".ipynb_checkpoints").mkdir()
    assert [path.name for path in folder.anomalies()] == ["photos.json"]
    assert collect([folder]).equals(before)
