"""Reconciliation: queues the deployments that LaunchDarkly lists and no webhook reported."""
