"""The client: how a consumer reads the enriched records of the stream."""
