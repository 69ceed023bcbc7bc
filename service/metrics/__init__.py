"""Metrics: counters, gauges of the namespace, /metrics, /healthz and /readyz."""
