"""LaunchDarkly's list in, what no webhook told of into the backlog."""
