"""Hostile files: how they are spoilt, and how much time and memory their readers may take."""

from __future__ import annotations

import resource
import signal
import struct
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from hypothesis import strategies as st

SECONDS = 30
MEGABYTES = 300


class Hang(BaseException):
    """No `except Exception` holds it."""


@contextmanager
def bounded() -> Iterator[None]:
    """What runs here must end within `SECONDS`, and take at most `MEGABYTES` more than the process had at its most."""

    def hang(*_: Any) -> None:
        raise Hang

    before, handler = _most_megabytes(), signal.signal(signal.SIGALRM, hang)
    signal.setitimer(signal.ITIMER_REAL, SECONDS)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, handler)
    assert _most_megabytes() - before < MEGABYTES


def _most_megabytes() -> float:
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return most / (1 << 20 if sys.platform == "darwin" else 1 << 10)


def last_bit_flipped(content: bytes) -> bytes:
    """Another number, mostly, which a file's format does not notice."""
    return content[:-1] + bytes([content[-1] ^ 1])


@st.composite
def spoilt(draw: st.DrawFn, content: bytes) -> bytes:
    """`content` with bits flipped, numbers set to extremes, and bytes inserted, repeated, cut out or cut off."""
    changed = bytearray(content)
    for _ in range(draw(st.integers(1, 4))):
        place = draw(st.integers(0, len(changed)))
        stop = draw(st.integers(place, min(place + 64, len(changed))))
        match draw(st.sampled_from(["flip", "number", "insert", "repeat", "cut", "truncate"])):
            case "flip" if place < len(changed):
                changed[place] ^= 1 << draw(st.integers(0, 7))
            case "number":
                form = draw(st.sampled_from(["<H", ">H", "<I", ">I", "<Q", ">Q"]))
                largest = 256 ** struct.calcsize(form) - 1
                number = draw(
                    st.sampled_from([0, 1, len(content), largest // 2, largest // 2 + 1, largest - 8, largest])
                )
                changed[place : place + struct.calcsize(form)] = struct.pack(form, min(number, largest))
            case "insert":
                changed[place:place] = draw(st.binary(max_size=8) | st.sampled_from([b"0", b"1", b" ", b"\n"]))
            case "repeat":
                changed[place:place] = changed[place:stop]
            case "cut":
                del changed[place:stop]
            case "truncate":
                del changed[place:]
    return bytes(changed)
