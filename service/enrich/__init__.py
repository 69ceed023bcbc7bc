"""Ticket in, Verdict out: LaunchDarkly asked, within everybody's budget."""
