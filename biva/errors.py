"""The one exception for what the user can fix; its message says how. What the operating system refuses, in words."""

from __future__ import annotations

import errno
import os
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path


class UserError(Exception):
    """A mistake or a missing thing outside the code, reported in full by the message.

    The message says what was wrong, where, what was expected and what to do. The command line prints it
    without a traceback and exits with status 1.
    """


def some_of(words: Sequence[str], most: int) -> str:
    """The first words of a list for a message, and how many more there are."""
    return ", ".join(words[:most]) + (f" and {len(words) - most} more" if len(words) > most else "")


_REMEDIES = {
    "You may not do this there; `ls -ld` shows who may. Ask the owner, or use a copy of your own": (
        *(errno.EACCES, errno.EPERM),
    ),
    "Nothing can be written there. Use a copy elsewhere": (errno.EROFS,),
    "Free some space": (errno.ENOSPC, errno.EDQUOT, errno.EFBIG),
    "Something else has this name. Move it away": (errno.EEXIST, errno.ENOTDIR, errno.EISDIR, errno.ENOTEMPTY),
    "Move the project to a folder with a shorter path": (errno.ENAMETOOLONG,),
    "Close other programs": (errno.ENOMEM, errno.EMFILE, errno.ENFILE),
    "Its file system cannot do this. Move the project to another one, such as a local disk": (
        *(errno.ENOLCK, errno.ENODEV, errno.ENOSYS, errno.EOPNOTSUPP),
    ),
    "The disk, or the server that has it, does not answer. Wait until it does": (
        *(errno.EIO, errno.ESTALE, errno.ETIMEDOUT, errno.ENOTCONN, errno.EHOSTDOWN),
    ),
}
"""What to do -> the errors for which it helps."""


@contextmanager
def naming(path: Path) -> Iterator[None]:
    """Enter the file into errors that do not name it: those of reading, writing and locking, as opposed to opening."""
    try:
        yield
    except OSError as error:
        error.filename = error.filename or str(path)
        raise


def explained(error: UserError | OSError) -> str:
    """What went wrong: of what the operating system refused, where, why, and what to do."""
    if isinstance(error, UserError):
        return str(error)
    where = [os.fsdecode(name) for name in (error.filename, error.filename2) if isinstance(name, str | bytes)]
    reason = (error.strerror or str(error) or type(error).__name__).rstrip(".")
    remedy = next((remedy for remedy, numbers in _REMEDIES.items() if error.errno in numbers), "Change that")
    return f"{': '.join([*where, reason])}. {remedy}, then run the same command again."


def without_password(text: str) -> str:
    """A text whose addresses have no user and password any more."""
    return re.sub(r"//[^/@\s]+@", "//", text)
