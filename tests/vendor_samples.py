"""Samples of vendors, not ours to ship, kept beside the checkout in ../shared/samples."""

import json
import os
from pathlib import Path
from typing import Any

import pytest

FOLDER = Path(__file__).parents[2] / "shared" / "samples"


def require_samples(pattern: str) -> list[Path]:
    """Return the samples that match; without any, skip the test, or fail it if GATE is set."""
    if not FOLDER.is_dir():
        pytest.skip("the samples of vendors are not beside this checkout (../shared/samples)")
    paths = sorted(FOLDER.glob(pattern))
    if not paths:
        reason = f"no sample of a vendor matches ../shared/samples/{pattern}"
        if "GATE" in os.environ:
            pytest.fail(reason)
        pytest.skip(reason)
    return paths


def require_signature_vectors(*kinds: str) -> list[dict[str, Any]]:
    """Return the signature vectors of some verifier kinds, or of all; skip or fail without any."""
    (path,) = require_samples("signature-vectors.json")
    vectors: list[dict[str, Any]] = json.loads(path.read_text(encoding="utf-8"))["vectors"]
    return [vector for vector in vectors if not kinds or vector["verifier"]["kind"] in kinds]
