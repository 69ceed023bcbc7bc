"""Tests of the check whether the token may report deployments to LaunchDarkly."""

import pytest

from service.doctor.write_check import WriteFacts, check_write


@pytest.mark.parametrize(
    ("status", "expected"),
    [(400, "ok"), (403, "error"), (401, "ok"), (429, "ok"), (500, "warning"), (0, "warning")],
)
def test_answer_to_an_empty_event_is_judged(status: int, expected: str) -> None:
    """Invalid means that it may write; a finding that is not ok has a fix."""
    finding = check_write(WriteFacts(["github"], status))
    assert finding.status == expected
    assert bool(finding.fix) is (expected != "ok")


def test_forbidden_event_names_the_sources() -> None:
    """Either the role or the sources must change."""
    finding = check_write(WriteFacts(["github", "gitlab"], 403))
    assert "Writer" in finding.fix
    assert "github, gitlab" in finding.fix
