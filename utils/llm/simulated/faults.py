"""Failures at set rates: what a provider does on a bad day.

Passing faults are drawn for each attempt at a request, so that asking again can succeed; lasting ones belong to the
request, so that it cannot.
"""

from __future__ import annotations

from collections import Counter

from utils.errors import CallError, ErrorKind
from utils.llm.simulated.draws import uniforms
from utils.llm.simulated.settings import Settings

RETRY_AFTER_S = 0.05  # small, so that a retry under a real clock costs next to nothing


class Faults:
    """Raises the failures of one model; counts the attempts at each request in this process."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._attempts: Counter[str] = Counter()
        s = settings
        self._any_passing = bool(s.rate_limit or s.server_error or s.timeout)
        self._any_lasting = bool(s.truncation or s.refusal or s.content_filter)

    @property
    def any(self) -> bool:
        """True if some request can fail."""
        return self._any_passing or self._any_lasting

    def check(self, key: str) -> str:
        """What happens to the answer of this request: empty, `refusal` or `truncation`. Raises CallError."""
        if self._any_passing:
            self._pass(key)
        if not self._any_lasting:
            return ""
        u = uniforms("lasting", key)[0]
        s = self._settings
        if u < s.content_filter:
            raise CallError(ErrorKind.CONTENT_FILTER, "the simulated provider declined to answer this text")
        if u < s.content_filter + s.refusal:
            return "refusal"
        return "truncation" if u < s.content_filter + s.refusal + s.truncation else ""

    def _pass(self, key: str) -> None:
        self._attempts[key] += 1
        s = self._settings
        u = uniforms("passing", key, str(self._attempts[key]))[0]
        if u < s.rate_limit:
            raise CallError(ErrorKind.TRANSIENT, "429: simulated rate limit", retry_after_s=RETRY_AFTER_S)
        if u < s.rate_limit + s.server_error:
            raise CallError(ErrorKind.TRANSIENT, "503: simulated server error")
        if u < s.rate_limit + s.server_error + s.timeout:
            raise CallError(ErrorKind.TRANSIENT, "simulated timeout")
