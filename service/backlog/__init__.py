"""DeploymentCompleted in, Ticket out: what still waits."""
