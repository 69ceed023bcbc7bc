"""Deployment frequency: count the deployments of each day and application, then end.

python deployments_per_day.py redis://127.0.0.1:6379
"""

import asyncio
import sys
from collections import Counter

from deployment_enricher_client import EnrichedStream

QUIET_S = 1.0


async def count_deployments(url: str) -> Counter[tuple[str, str]]:
    """Return the number of deployments by day and application; later revisions do not count."""
    counts: Counter[tuple[str, str]] = Counter()
    async with EnrichedStream(url, since="0") as records:
        while True:
            try:
                record = await asyncio.wait_for(anext(records), QUIET_S)
            except TimeoutError:
                return counts  # all records are read
            if record.data.revision == 1:
                counts[record.time[:10], record.application] += 1


if __name__ == "__main__":
    for (day, application), count in sorted(asyncio.run(count_deployments(sys.argv[1])).items()):
        print(f"{day}  {application:20}  {count}")
