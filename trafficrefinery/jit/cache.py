"""How the package runs, and where compiled code is kept.

`TRAFFICREFINERY_JIT` selects how, once per process:

- `on` (default): compiled, array accesses unchecked;
- `boundscheck`: compiled, a wrong index raises IndexError;
- `off`: plain Python, for debuggers and coverage.
"""

from __future__ import annotations

import hashlib
import importlib.util
import os
from pathlib import Path

MODE = os.environ.get("TRAFFICREFINERY_JIT", "on")
if MODE not in ("on", "boundscheck", "off"):
    raise SystemExit(f'error: TRAFFICREFINERY_JIT: "{MODE}" is not one of on, boundscheck, off')
COMPILED = MODE != "off"


def cache_root() -> Path:
    """Where compiled code and generated step modules are kept."""
    configured = os.environ.get("TRAFFICREFINERY_CACHE_DIR")
    if configured:
        return Path(configured)
    base = os.environ.get("CACHE_DIRECTORY") or os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "trafficrefinery"


def _digests() -> tuple[str, str]:
    """Of the sources that take part in compiled code, with the compiler; and of the whole package.

    The first names the cache directory: a compiled function's own file tells nothing of edits in others that it calls.
    Only sources count that name this module, its own, and `api`.
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
        if b"trafficrefinery.jit import" in source or path.parent.name == "jit" or path.name == "api.py":
            compiled.update(named)
    return compiled.hexdigest()[:16], whole.hexdigest()[:16]


_COMPILED_DIGEST, PACKAGE_DIGEST = _digests()
CACHE_DIR = cache_root() / f"{_COMPILED_DIGEST}-{MODE}"


def keep(path: Path, content: bytes) -> None:
    """Write a file of the cache, at once for whoever reads it meanwhile."""
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_suffix(f".{os.getpid()}.tmp")
    draft.write_bytes(content)
    draft.replace(path)
