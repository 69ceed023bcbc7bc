"""The backlog: turns a DeploymentCompleted event into a Ticket that waits."""
