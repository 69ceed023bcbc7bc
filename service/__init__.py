"""deployment-enricher: a signed webhook in, one enriched record out.

accept    signed webhook bytes in, DeploymentCompleted out
backlog   DeploymentCompleted in, Ticket out: what still waits
enrich    Ticket in, Verdict out: LaunchDarkly asked, within everybody's budget
reconcile LaunchDarkly's list in, what no webhook told of into the backlog
publish   Found in, one entry of the output stream out
worker    claim, enrich, publish, settle: the only place where the stages meet
store     how we speak with Redis            operate   what a person sees and turns
simulate  a LaunchDarkly on the table        house     what receivers and workers share
app       where everything is made, joined and closed
A room may know where things come from, never where they go.
"""

__version__ = "0.1.0"
