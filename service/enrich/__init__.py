"""Ticket in, Verdict out: fetches deployments from LaunchDarkly within the shared budget."""
