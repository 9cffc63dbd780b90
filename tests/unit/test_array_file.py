"""The array file, against the safetensors package and by what is in memory when."""

from __future__ import annotations

import gc
import hashlib
import weakref
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from safetensors.numpy import load_file, save

from biva.data.array_file import map_arrays, one_after_the_other, write_arrays
from biva.data.raw import Arrays, Stream
from biva.errors import UserError


def arrays() -> dict[str, NDArray[Any]]:
    return {
        "valid/images": np.arange(5, dtype=np.uint8).reshape(5, 1, 1, 1),
        "test/labels": np.array([3, -1, 2**40]),
        "train/images": np.arange(24, dtype=np.uint8).reshape(2, 3, 2, 2),
        "test/images": np.zeros((0, 3, 2, 2), dtype=np.uint8),
    }


@settings(max_examples=50, deadline=None)
@given(
    st.dictionaries(
        st.sampled_from(["train/images", "valid/images", "test/images", "train/labels", "test/labels"]),
        st.integers(0, 40),
        min_size=1,
    ),
    st.integers(1, 5),
)
def test_the_bytes_are_those_of_the_safetensors_package_in_whatever_pieces_streams_come(
    tmp_path_factory: pytest.TempPathFactory, sizes: dict[str, int], piece: int
) -> None:
    whole: dict[str, NDArray[Any]] = {
        name: np.arange(size * 3, dtype=np.uint8).reshape(size, 3) if "images" in name else np.arange(size)
        for name, size in sizes.items()
    }

    def stream(values: NDArray[np.uint8]) -> Stream:
        return Stream(values.shape, lambda: (values[i : i + piece] for i in range(0, len(values), piece)))

    given_arrays: Arrays = {name: stream(v) if "images" in name else v for name, v in whole.items()}
    path = tmp_path_factory.mktemp("arrays") / "folder" / "data.safetensors"
    fingerprint = write_arrays(path, given_arrays)
    assert path.read_bytes() == save(whole)
    assert fingerprint == hashlib.sha256(save(whole)).hexdigest()


def test_mapped_arrays_are_those_that_the_safetensors_package_reads(tmp_path: Path) -> None:
    path = tmp_path / "data.safetensors"
    write_arrays(path, {**arrays()})
    mapped, expected = map_arrays(path), load_file(path)
    assert mapped.keys() == expected.keys()
    for name, tensor in mapped.items():
        assert np.array_equal(tensor.numpy(), expected[name]) and tensor.numpy().dtype == expected[name].dtype


def test_neighbours_are_joined_without_a_copy(tmp_path: Path) -> None:
    path = tmp_path / "data.safetensors"
    images = {name: np.full((size, 2), size, dtype=np.uint8) for name, size in (("a", 2), ("b", 3), ("c", 1))}
    write_arrays(path, {**images})
    mapped = map_arrays(path)
    both = one_after_the_other(mapped["a"], mapped["b"])
    assert both.data_ptr() == mapped["a"].data_ptr()
    assert both.tolist() == [[2, 2]] * 2 + [[3, 3]] * 3
    assert one_after_the_other(mapped["a"], mapped["c"]).tolist() == [[2, 2]] * 2 + [[1, 1]]
    assert one_after_the_other(mapped["b"], mapped["a"]).tolist() == [[3, 3]] * 3 + [[2, 2]] * 2
    assert one_after_the_other(torch.zeros(1, 2), torch.ones(1, 2)).tolist() == [[0, 0], [1, 1]]


def test_writer_holds_one_piece_at_a_time(tmp_path: Path) -> None:
    """When a stream is asked for its next piece, nobody holds an earlier one any more."""
    alive: list[weakref.ref[NDArray[np.uint8]]] = []
    most = 0

    def chunks() -> Iterator[NDArray[np.uint8]]:
        nonlocal most
        for _ in range(10):
            gc.collect()
            most = max(most, sum(ref() is not None for ref in alive))
            piece = np.ones((2, 1, 1, 1), dtype=np.uint8)
            alive.append(weakref.ref(piece))
            yield piece
            del piece

    write_arrays(tmp_path / "data.safetensors", {"train/images": Stream((20, 1, 1, 1), chunks)})
    assert most <= 1


def test_an_earlier_file_stays_when_a_stream_fails(tmp_path: Path) -> None:
    def chunks() -> Iterator[NDArray[np.uint8]]:
        yield np.zeros((1, 1), dtype=np.uint8)
        raise UserError("damaged")

    path = tmp_path / "data.safetensors"
    path.write_bytes(b"earlier")
    with pytest.raises(UserError, match="damaged"):
        write_arrays(path, {"a": Stream((2, 1), chunks)})
    assert [(file.name, file.read_bytes()) for file in tmp_path.iterdir()] == [(path.name, b"earlier")]
