"""deployment-enricher: a signed webhook in, one enriched record out.

accept     signed webhook bytes in, DeploymentEvent out
backlog    DeploymentEvent in, Ticket out: what waits or is leased
enrich     Ticket in, Verdict out, within the shared budget
publish    Found in, one entry of the output stream out
reconcile  LaunchDarkly's list in, missed deployments into the backlog
client     the library with which a downstream service reads the stream
worker     claim, enrich, publish, settle: the only place where the stages meet
store      how the service speaks with Redis
metrics    counters, gauges, /metrics, /healthz and /readyz
console    the web console
doctor     checks of an installation
tracing    OpenTelemetry, off unless configured
contracts  JSON Schema, AsyncAPI and OpenAPI
simulate   a LaunchDarkly for demos and tests
app        builds and runs all of it
cli        the command line

Imports point one way: a package knows where its input comes from, never where its output goes.
"""

__version__ = "0.1.0"
