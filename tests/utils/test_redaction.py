"""Keys are neither shown nor written down."""

from __future__ import annotations

import pytest

from utils.errors import UsageError
from utils.redaction import redact, refuse_secrets


def test_keys_are_redacted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MY_VENDOR_API_KEY", "plainwordsecret")
    text = redact("a plainwordsecret b sk-proj-abcdefgh1234 c Bearer xyz.abc d AIzaSyA1234567890abcdef e")
    assert text == "a *** b *** c *** d *** e"


@pytest.mark.parametrize(
    "name",
    [
        "api_key",
        "apikey",
        "aws_secret_access_key",
        "Authorization",
        "azure_ad_token",
        "extra_headers",
        "password",
        "token",
    ],
)
def test_names_that_keys_are_given_under_are_refused_at_any_depth(name: str) -> None:
    for value in ({name: "x"}, {"a": {name: "x"}}, {"a": [{name: {}}]}):
        with pytest.raises(UsageError, match="may hold a key"):
            refuse_secrets(value, "--model-params")


@pytest.mark.parametrize(
    "value",
    [
        {"max_tokens": 5, "max_completion_tokens": 5, "thinking": {"budget_tokens": 9}},
        {"api_base": "http://localhost:8000/v1", "api_version": "2026-01-01", "logit_bias": {"50256": -100}},
        {"prompt": "Which key opens the door? {question}", "top_logprobs": 5, "seed": 7},
    ],
)
def test_ordinary_parameters_are_no_secrets(value: dict, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "door")  # what a local server is content with may be an ordinary word
    refuse_secrets(value, "--model-params")
