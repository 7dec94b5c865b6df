"""Files that this program makes: whole, or not there at all; what the system refuses is an error that names them."""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
import threading
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType

from trafficrefinery.errors import OutputError

PARTIAL = ".partial"
"""Suffix of a file that is being written."""


@contextlib.contextmanager
def output_errors(path: Path) -> Iterator[None]:
    """Turns what the system refuses into an OutputError that names the file, or the folder."""
    try:
        yield
    except OSError as error:
        raise output_error(error, path) from error


def output_error(error: OSError, path: str | Path) -> OutputError:
    """What the system refused, as an error that names the file."""
    hint = "; free some space and run again" if error.errno == errno.ENOSPC else ""
    reason = os.strerror(error.errno) if error.errno else error
    return OutputError(f"{path}: cannot be written: {reason}{hint}")


class Whole:
    """A file, or a folder, that gets its name when it is complete: the draft is beside it until then.

    As a context manager, it gives the path of the draft, which is discarded when the block raises.

    Raises:
        OSError: what the system refuses; within `output_errors` it becomes an OutputError.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.draft = path.with_name(f"{path.name}.{threading.get_native_id()}{PARTIAL}")  # nobody else writes there

    def publish(self) -> None:
        """The draft is complete: it gets its name."""
        self.draft.replace(self.path)

    def discard(self) -> None:
        """Leave nothing behind."""
        with contextlib.suppress(OSError):
            self.draft.unlink(missing_ok=True)
        shutil.rmtree(self.draft, ignore_errors=True)

    def __enter__(self) -> Path:
        return self.draft

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, at: TracebackType | None) -> None:
        try:
            if kind is None:
                self.publish()
        finally:
            self.discard()


def write_file(path: Path, content: str | bytes) -> Path:
    """Write a file, whole or not at all.

    Raises:
        OutputError: it cannot be written.
    """
    with output_errors(path), Whole(path) as draft:
        draft.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


def make_directory(directory: Path) -> Path:
    """Make an output directory, and see that it can be written to.

    Raises:
        OutputError: it cannot, or is a file.
    """
    with output_errors(directory):
        if directory.is_file():
            raise OutputError(f"{directory}: is a file; name a directory")
        directory.mkdir(parents=True, exist_ok=True)
        probe = directory / f".probe-{os.getpid()}"
        probe.touch()
        probe.unlink()
    return directory
