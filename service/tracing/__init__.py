"""OpenTelemetry traces from the webhook to the record, off unless configured."""
