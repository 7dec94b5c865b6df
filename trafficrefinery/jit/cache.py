"""How the package runs, and where compiled code is kept.

`TRAFFICREFINERY_JIT` selects how, once per process:

- `on` (default): compiled; indices are checked in feature classes, and nowhere else;
- `boundscheck`: compiled, a wrong index raises IndexError;
- `off`: plain Python, for debuggers and coverage.

The cache is code that is run: its directory must be nobody else's to write. What is in it is a matter of speed alone:
a file that is cut, empty or changed is made anew, and where nothing can be written, a private directory serves.
"""

from __future__ import annotations

import contextlib
import errno
import functools
import hashlib
import importlib.util
import logging
import os
import stat
import tempfile
from pathlib import Path

from trafficrefinery.errors import UsageError
from trafficrefinery.system.files import read_bytes, write_fault
from trafficrefinery.system.writing import Whole

MODE = os.environ.get("TRAFFICREFINERY_JIT", "on")
if MODE not in ("on", "boundscheck", "off"):
    raise SystemExit(f'error: TRAFFICREFINERY_JIT: "{MODE}" is not one of on, boundscheck, off')
COMPILED = MODE != "off"
CACHE_VARIABLE = "TRAFFICREFINERY_CACHE_DIR"
_HEAD = b"# sha256 "
_MOST_BYTES = 1 << 30
_log = logging.getLogger("trafficrefinery")


def cache_root() -> Path:
    """Where compiled code and generated step modules are to be kept.

    Raises:
        RuntimeError: this user has no home directory.
    """
    configured = os.environ.get(CACHE_VARIABLE)
    if configured:
        return Path(configured).absolute()
    base = os.environ.get("CACHE_DIRECTORY") or os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base).absolute() / "trafficrefinery"


def _digests() -> tuple[str, str]:
    """Of the sources that take part in compiled code, with the compiler; and of the whole package.

    The first names the cache directory: a compiled function's own file tells nothing of edits in others that it calls.
    Only sources count that name this module, its own, `api`, and those that describe packets: compiled code holds their
    numbers.
    """
    compiled = hashlib.sha256(MODE.encode())
    for compiler in ("numba", "llvmlite"):
        found = importlib.util.find_spec(compiler)  # does not import it
        assert found is not None
        assert found.origin is not None
        compiled.update((Path(found.origin).parent / "_version.py").read_bytes())
    whole = compiled.copy()
    root = Path(__file__).parent.parent
    for path in sorted(root.rglob("*.py")):
        source = path.read_bytes()
        named = str(path.relative_to(root)).encode() + source
        whole.update(named)
        room = path.relative_to(root).parts[0]
        if b"trafficrefinery.jit import" in source or room in ("jit", "packets", "api"):
            compiled.update(named)
    return compiled.hexdigest()[:16], whole.hexdigest()[:16]


_COMPILED_DIGEST, PACKAGE_DIGEST = _digests()
_NAME = f"{_COMPILED_DIGEST}-{MODE}"


@functools.cache
def cache_dir() -> Path | None:
    """The directory for code of these sources, whether it exists or not; None for a user without a home directory.

    Raises:
        UsageError: somebody else can write there.
    """
    try:
        place = cache_root() / _NAME
    except RuntimeError:
        return None
    fault = write_fault(place)
    if fault:
        raise UsageError(
            f"{place}: {fault}; compiled code is kept there and run: make it yours alone, or set {CACHE_VARIABLE}"
        )
    return place


def _common_private_dir() -> Path | None:
    """What `_private_dir` made, in this run or another."""
    try:
        place = Path(tempfile.gettempdir()) / f"trafficrefinery-{os.geteuid()}"
        status = place.lstat()
    except OSError:  # also: no directory for temporary files
        return None
    mine = status.st_uid == os.geteuid() and stat.S_ISDIR(status.st_mode) and not status.st_mode & 0o077
    return place / _NAME if mine else None


@functools.cache
def _private_dir() -> Path:
    """A directory that only this user can see, the same in every run where that is possible."""
    with contextlib.suppress(OSError):
        (Path(tempfile.gettempdir()) / f"trafficrefinery-{os.geteuid()}").mkdir(0o700)
    return _common_private_dir() or Path(tempfile.mkdtemp(prefix="trafficrefinery-")) / _NAME


def keep(name: str, content: bytes) -> Path:
    """Write a file of the cache with its digest, at once for whoever reads it meanwhile; returns where it is.

    Raises:
        UsageError: it can be written nowhere.
    """
    place = cache_dir()
    try:
        if place is None:
            raise OSError(errno.ENOENT, "this user has no home directory")
        return _write(place / name, content)
    except OSError as error:
        reason = error
    try:
        path = _write(_private_dir() / name, content)
    except OSError as error:
        raise UsageError(
            f"no directory for compiled code: {_said(reason)}; {_said(error)}; "
            f"set {CACHE_VARIABLE} to a directory with room"
        ) from error
    _warn_of_private(reason)
    return path


def _write(path: Path, content: bytes) -> Path:
    path.parent.mkdir(0o700, parents=True, exist_ok=True)
    with Whole(path) as draft:
        draft.write_bytes(_HEAD + hashlib.sha256(content).hexdigest().encode() + b"\n" + content)
    return path


def _said(error: OSError) -> str:
    return f"{error.filename or cache_dir()}: {error.strerror}" if error.strerror else str(error)


_warned: list[OSError] = []


def _warn_of_private(reason: OSError) -> None:
    if not _warned:
        _warned.append(reason)
        os.environ[CACHE_VARIABLE] = str(_private_dir().parent)  # of processes that this one starts
        _log.warning(
            "warning: compiled code is kept in %s, because it cannot be where it should (%s); set %s to a directory "
            "that you can write to", _private_dir().parent, _said(reason), CACHE_VARIABLE,
        )  # fmt: skip


def kept(name: str) -> tuple[Path, bytes] | None:
    """Where a file of the cache is, and what `keep` wrote; None when it is not there, or damaged, which is logged."""
    for place in (cache_dir(), _common_private_dir()):
        content = None if place is None else _intact(place / name)
        if place is not None and content is not None:
            return place / name, content
    return None


def _intact(path: Path) -> bytes | None:
    try:
        head, _, content = read_bytes(path, _MOST_BYTES).partition(b"\n")
    except (FileNotFoundError, NotADirectoryError, PermissionError):
        return None
    except OSError as error:
        _log.warning("warning: %s cannot be read (%s); it is made anew", path, error.strerror)
        return None
    if head != _HEAD + hashlib.sha256(content).hexdigest().encode():
        _log.warning("warning: %s is damaged; it is made anew", path)
        return None
    return content
