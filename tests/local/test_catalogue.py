"""What `--list` says."""

from __future__ import annotations

import pytest

from local.catalogue import catalogue, print_catalogue


def test_datasets_without_a_fixed_revision_are_told(capsys: pytest.CaptureFixture[str]) -> None:
    moving = {name for name, row in catalogue()["datasets"].items() if not row["is_fixed"]}
    assert moving == {"election_questions", "rag_hallucinations", "ragbench_sentence_relevance"}
    print_catalogue(as_json=False)
    shown = " ".join(capsys.readouterr().out.split())
    assert shown.count("no fixed revision at the hub") == len(moving)
