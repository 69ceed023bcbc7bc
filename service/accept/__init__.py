"""Signed webhook bytes in, DeploymentCompleted out."""
