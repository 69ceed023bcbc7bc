"""Diagnosis of an installation: probes gather facts, checks turn facts into findings."""
