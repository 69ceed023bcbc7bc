"""The backlog: turns a DeploymentEvent into a Ticket that waits."""
