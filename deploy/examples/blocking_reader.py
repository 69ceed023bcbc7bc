"""A reader without asyncio: each record goes to one process of the group, at least once.

python blocking_reader.py redis://127.0.0.1:6379
"""

import sys

from deployment_enricher_client import EnrichedStream, read_blocking


def main(url: str) -> None:
    """Print one line for each record; the next turn of the loop acknowledges it."""
    with read_blocking(EnrichedStream(url, group="blocking-reader")) as records:
        for record in records:
            print(record.id, record.application, record.environment, flush=True)


if __name__ == "__main__":
    main(sys.argv[1])
