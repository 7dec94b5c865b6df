"""Structured logs on standard error: one line an event, `key=value` after the message, levels as the journal reads."""

from __future__ import annotations

import logging
import os
import sys
import threading
from typing import Any

from trafficrefinery.system.wording import one_line

from . import bug_report

_logger = logging.getLogger("trafficrefinery")
_JOURNAL_LEVELS = {logging.ERROR: "<3>", logging.WARNING: "<4>", logging.INFO: "<6>", logging.DEBUG: "<7>"}


class _Formatter(logging.Formatter):
    def __init__(self, process: str) -> None:
        super().__init__()
        self._process = process
        self._in_journal = "JOURNAL_STREAM" in os.environ

    def format(self, record: logging.LogRecord) -> str:
        fields = {"process": self._process, **getattr(record, "fields", {})}
        told = " ".join(f"{key}={_value(value)}" for key, value in fields.items())
        text = one_line(f"{' '.join(record.getMessage().split())} {told}")
        if record.exc_info:
            text += "\n" + self.formatException(record.exc_info)
        if self._in_journal:  # which knows the time, and takes each line for an event
            prefix = _JOURNAL_LEVELS.get(record.levelno, "<6>")
            return "\n".join(prefix + line for line in text.split("\n"))
        return f"{self.formatTime(record)} {record.levelname.lower()} {text}"


def _value(value: Any) -> str:
    text = str(value)
    return f'"{text}"' if set(text) & set(' "=') else text


def set_up(process: str) -> None:
    """Log from now on, as this process."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_Formatter(process))
    _logger.handlers[:] = [handler]
    _logger.setLevel(logging.INFO)
    _logger.propagate = False
    threading.excepthook = _bug_of_thread


def bug(failure: BaseException) -> None:
    """An exception that nobody expected: one line, and a file with all that there is to know of it."""
    error(bug_report.one_line(failure), failure if bug_report.shows() else None)


def _bug_of_thread(arguments: threading.ExceptHookArgs) -> None:
    if arguments.exc_value is not None:
        bug(arguments.exc_value)


def info(message: str, **fields: Any) -> None:
    """An event in the life of the daemon."""
    _logger.info(message, extra={"fields": fields})


def warning(message: str, **fields: Any) -> None:
    """Something that its user should look at."""
    _logger.warning(message, extra={"fields": fields})


def error(message: str, trace: BaseException | None = None, **fields: Any) -> None:
    """Something failed; `trace` is added with its traceback when nobody foresaw it."""
    _logger.error(message, exc_info=trace, extra={"fields": fields})
