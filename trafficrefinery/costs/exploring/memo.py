"""What was found already, in a file that grows line by line: after a kill, nothing of it is done again."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import orjson

from trafficrefinery.errors import UsageError
from trafficrefinery.system.writing import output_errors


class Memo:
    """Key → figures; what is added is in the file before `add` returns, and a torn last line is cut off."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._found: dict[str, Any] = {}
        try:
            with output_errors(path):
                text = path.read_bytes() if path.exists() else b""
                whole = text.rfind(b"\n") + 1
                for line in text[:whole].splitlines():
                    key, value = orjson.loads(line)
                    self._found[key] = value
                self._file = path.open("ab", buffering=0)
                self._file.truncate(whole)
        except (ValueError, TypeError) as error:
            raise UsageError(f"{path}: is damaged: {error}; delete it; its results are computed again") from error

    def __contains__(self, key: str) -> bool:
        return key in self._found

    def __getitem__(self, key: str) -> Any:
        return self._found[key]

    def __len__(self) -> int:
        return len(self._found)

    def add(self, key: str, value: Any) -> None:
        """Remember."""
        with output_errors(self._path):
            self._file.write(orjson.dumps([key, value]) + b"\n")
        self._found[key] = value

    def close(self) -> None:
        self._file.close()
