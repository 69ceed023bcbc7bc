"""Release notes: print what each deployment brought, as Markdown, while records come in.

python release_notes.py redis://127.0.0.1:6379
"""

import asyncio
import sys

from deployment_enricher_client import EnrichedStream, Record

HOUR_MS = 3_600_000


def format_notes(record: Record) -> str:
    """Return the notes of one record; whoever shows them as HTML must escape them."""
    summary = record.data.summary
    version = record.deployment.application_version or "unknown version"
    lines = [f"## {record.application} {version} in {record.environment}, {record.time}", ""]
    lines += [f"- #{pull.number} {pull.title} ({pull.author})" for pull in summary.pull_requests]
    if summary.flags:
        lines.append(f"- flags: {', '.join(sorted({flag.key for flag in summary.flags}))}")
    if summary.lead_time_ms is not None:
        lines.append(f"- lead time: {summary.lead_time_ms / HOUR_MS:.1f} h")
    if not record.data.completeness.complete:
        lines.append("- incomplete: LaunchDarkly counts more than it returned")
    return "\n".join([*lines, ""])


async def main(url: str) -> None:
    """Read all records from the oldest on; without a group nothing is acknowledged."""
    async with EnrichedStream(url) as records:
        async for record in records:
            print(format_notes(record), flush=True)


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1]))
