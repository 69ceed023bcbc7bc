"""Signed webhook bytes in, DeploymentEvent out."""
