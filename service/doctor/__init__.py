"""What is wrong here, and how is it mended? Facts are asked for, judged, and told."""
