"""The agent's log: one JSON object a line (or words for people), with what was given in ``extra``. Used by main.py."""

from __future__ import annotations

import json
import logging
import sys
import time
from typing import Any, Final

_ORDINARY: Final = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}


def fields(record: logging.LogRecord) -> dict[str, Any]:
    """Only what the caller gave."""
    return {name: value for name, value in vars(record).items() if name not in _ORDINARY}


def _stamp(record: logging.LogRecord) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created)) + f".{int(record.msecs):03d}Z"


class JsonLines(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        line = {"at": _stamp(record), "level": record.levelname.lower(), "message": record.getMessage()}
        line |= {"logger": record.name.removeprefix("berth."), **fields(record)}
        if record.exc_info:
            line["trace"] = self.formatException(record.exc_info)
        return json.dumps(line, default=str)


class Words(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        given = " ".join(f"{name}={value}" for name, value in fields(record).items())
        line = f"{_stamp(record)} {record.levelname:7} {record.getMessage()} {given}".rstrip()
        return line + ("\n" + self.formatException(record.exc_info) if record.exc_info else "")


def set_up(level: str, shape: str) -> None:
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonLines() if shape == "json" else Words())
    logging.basicConfig(level="WARNING", handlers=[handler], force=True)  # other people's libraries: only trouble
    logging.getLogger("berth").setLevel(level)
