"""Keys stay where they belong: nothing that looks like one is shown, logged, or written into a plan."""

from __future__ import annotations

import logging
import os
import re
from typing import Any

from utils.errors import UsageError, cut

_KEY_LIKE = re.compile(
    r"\b(?:sk|pk|rk|gsk|xai|hf|r8|nvapi|pplx|fw|tgp)[-_][\w*-]{8,}|\bAIza[\w-]{10,}|\b(?:AKIA|ASIA)[A-Z0-9]{12,}"
    r"|\bya29\.\S+|\beyJ[\w-]+\.[\w-]+\.\S+|\bBearer\s+\S+",
)
_IN_ADDRESS = re.compile(r"://[^/\s@]+@|[?&][\w-]*(key|token|secret|sig)[\w-]*=", re.IGNORECASE)
_SECRET_VARIABLE = re.compile(r"(KEY|TOKEN|SECRET|PASSWORD|CREDENTIALS)$")
_SECRET_NAME = re.compile(
    r"(api|access|account|private|secret|subscription)[-_]?key|secret|passw(or)?d|credential|authorization|headers$"
    r"|^token$|(auth|access|session|bearer|refresh|ad|id)[-_]token",
    re.IGNORECASE,
)
LEAST = 6  # characters of a variable's value that is taken for a key
SURE = 16  # of one that is found by chance in nothing else


def redact(text: str) -> str:
    """The text with *** for all that looks like a key, and for every value of a *_KEY, *_TOKEN or *_SECRET variable."""
    for value in sorted(_values(LEAST), key=len, reverse=True):
        text = text.replace(value, "***")
    return _KEY_LIKE.sub("***", text)


class RedactingFormatter(logging.Formatter):
    """Lines of a log without keys, tracebacks included: what raised may have put one into its message."""

    def format(self, record: logging.LogRecord) -> str:
        return redact(super().format(record))


def refuse_secrets(value: Any, where: str) -> None:
    """Raises UsageError for what is, or may hold, a key: what is asked for is written into the plan of a run."""
    way_out = "what is given here is written into the run's plan; set the provider's environment variable instead"
    if isinstance(value, dict):
        for name, item in value.items():
            if _SECRET_NAME.search(name):
                raise UsageError(f"{where}: {cut(name)!r} may hold a key, and {way_out}")
            refuse_secrets(item, f"{where}: {cut(name)}")
    elif isinstance(value, list | tuple):
        for item in value:
            refuse_secrets(item, where)
    elif isinstance(value, str) and _holds_key(value):
        raise UsageError(f"{where}: a value looks like a key, and {way_out}")


def _holds_key(text: str) -> bool:
    is_address = text.startswith(("http://", "https://"))
    found = _KEY_LIKE.search(text) or (is_address and _IN_ADDRESS.search(text))
    return bool(found) or any(value in text for value in _values(SURE))


def _values(least: int) -> list[str]:
    return [value for name, value in os.environ.items() if _SECRET_VARIABLE.search(name) and len(value) >= least]
