"""Publishing: takes what a worker found, appends one entry to the output stream."""
