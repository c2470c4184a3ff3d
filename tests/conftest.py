"""Fixtures that several test modules share."""

from __future__ import annotations

from pathlib import Path

import pytest

SMALL = Path(__file__).resolve().parent.parent / "models" / "small"


@pytest.fixture
def gpt2() -> Path:
    """A GPT-2 of two layers: five LayerNorms, all of which can become RMSNorms."""
    return SMALL / "gpt2_dynamo18.onnx"
