"""Found in, one entry of the output stream out."""
