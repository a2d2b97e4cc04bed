"""A folder that takes the place of another as a whole, whenever the process may be killed.

A new folder is made in a hidden one beside its target, in which the old one ends:

    .NAME.xxxxxxxx.hip-ext-part/new  ──exchange──>  NAME    and the old NAME is where the new one was
    .NAME.xxxxxxxx.hip-ext-part/new  ──rename────>  NAME    after NAME went to …/old, where the system cannot exchange
                                                            two folders in one step

In the second case there is a moment without NAME. A process that is killed then leaves `old`, which `present` finds, so
that there is always a whole folder to read, and which the next writer puts back. A writer holds a lock on its hidden
folder as long as it lives, so what is left of others can be told from what is being written.
"""

from __future__ import annotations

import ctypes
import ctypes.util
import errno
import os
import shutil
import sys
import tempfile
from collections.abc import Callable, Collection, Iterator
from contextlib import ExitStack, contextmanager, suppress
from functools import cache
from glob import escape
from pathlib import Path

try:
    import fcntl
except ImportError:  # no such locks on Windows; what is left there is taken for abandoned
    fcntl = None  # type: ignore[assignment]

SUFFIX = ".hip-ext-part"
"""Nobody else's: what is found under it is removed."""


@contextmanager
def replacing(folder: Path, ours: Collection[str]) -> Iterator[Path]:
    """Yields an empty folder that becomes `folder` when the block ends without an error.

    Args:
        folder: may exist; an absolute path.
        ours: names of the files that are replaced (or vanish); all others of an old folder are moved to the new one.

    Raises:
        OSError: there is no room or no permission; then everything is as it was.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    recover(folder, ours)
    with ExitStack() as stack:
        work = _begun(folder)
        while not stack.enter_context(_locked(work)):  # another writer has taken it for abandoned
            work = _begun(folder)
        try:
            new = work / "new"
            new.mkdir()
            yield new
            _put_in_place(new, folder, work / "old")
        finally:
            # `old` without `folder` is the user's, when even putting it back has failed: it stays, for `recover`.
            if folder.exists() or not (work / "old").exists():
                _move_others(work, folder, ours)
                shutil.rmtree(work, ignore_errors=True)


def present(folder: Path) -> Path:
    """Where a folder is: under its name, or where a writer has left it that was killed between two renames."""
    if not os.path.lexists(folder):
        for work in _works(folder):
            if (work / "old").is_dir():
                return work / "old"
    return folder


def recover(folder: Path, ours: Collection[str]) -> None:
    """Ends what killed writers have begun: puts the old folder back, gives it its other files, removes the rest."""
    for work in _works(folder):
        with suppress(OSError), _locked(work) as abandoned:
            if not abandoned:
                continue
            if not folder.exists() and (work / "old").is_dir():
                (work / "old").rename(folder)
            if folder.is_dir():
                _move_others(work, folder, ours)
            shutil.rmtree(work)


def _begun(folder: Path) -> Path:
    return Path(tempfile.mkdtemp(dir=folder.parent, prefix=f".{folder.name}.", suffix=SUFFIX))


def _works(folder: Path) -> list[Path]:
    return sorted(path for path in folder.parent.glob(f".{escape(folder.name)}.????????{SUFFIX}") if path.is_dir())


def _put_in_place(new: Path, folder: Path, old: Path) -> None:
    """Exchanges a folder for a new one; if that fails, the old one is back where it was."""
    if not folder.exists():
        new.rename(folder)
        return
    if _exchange(new, folder):
        return
    folder.rename(old)
    try:
        new.rename(folder)
    except BaseException:
        old.rename(folder)
        raise


def _move_others(work: Path, folder: Path, ours: Collection[str]) -> None:
    for left in (work / "old", work / "new"):
        for path in left.iterdir() if left.is_dir() else ():
            if path.name not in ours and not os.path.lexists(folder / path.name):
                path.rename(folder / path.name)


@contextmanager
def _locked(work: Path) -> Iterator[bool]:
    """Holds the lock of a hidden folder; yields False where another process has it, or has removed the folder."""
    if fcntl is None:
        yield True
        return
    try:
        descriptor = os.open(work, os.O_RDONLY)
    except FileNotFoundError:
        yield False
        return
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield False
            return
        except OSError:  # a file system without locks
            pass
        yield work.is_dir()
    finally:
        os.close(descriptor)


def _exchange(a: Path, b: Path) -> bool:
    """Exchanges two paths in one step; False where the system or the file system cannot."""
    call = _exchanging_call()
    if call is None:
        return False
    if call(os.fsencode(a), os.fsencode(b)) == 0:
        return True
    number = ctypes.get_errno()
    if number in (errno.EINVAL, errno.ENOSYS, errno.ENOTSUP, errno.EPERM):
        return False
    raise OSError(number, os.strerror(number), str(b))


@cache
def _exchanging_call() -> Callable[[bytes, bytes], int] | None:
    """renameat2(…, RENAME_EXCHANGE) of Linux or renamex_np(…, RENAME_SWAP) of macOS."""
    with suppress(OSError, AttributeError, TypeError):
        library = ctypes.CDLL(None, use_errno=True)
        if sys.platform == "darwin":
            swap = library.renamex_np
            swap.argtypes = (ctypes.c_char_p, ctypes.c_char_p, ctypes.c_uint)
            return lambda a, b: int(swap(a, b, 2))
        rename = library.renameat2
        rename.argtypes = (ctypes.c_int, ctypes.c_char_p, ctypes.c_int, ctypes.c_char_p, ctypes.c_uint)
        here = -100  # AT_FDCWD
        return lambda a, b: int(rename(here, a, here, b, 2))
    return None
