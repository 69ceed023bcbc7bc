"""Chat: post one message for each deployment to an incoming webhook, as Slack and others take it.

python post_to_chat.py redis://127.0.0.1:6379 https://hooks.slack.com/services/...
"""

import json
import sys
import urllib.request

from deployment_enricher_client import EnrichedStream, Record, read_blocking


def build_message(record: Record) -> dict[str, str]:
    """Return the message of one record."""
    authors = ", ".join(record.data.summary.authors) or "nobody known"
    count = len(record.data.summary.pull_requests)
    where = f"{record.application} is in {record.environment}"
    return {"text": f"{where}: {count} pull requests by {authors}"}


def post(url: str, message: dict[str, str]) -> None:
    """Post one message; an HTTP error raises, so the record is not acknowledged and comes again."""
    body = json.dumps(message).encode()
    headers = {"Content-Type": "application/json"}
    with urllib.request.urlopen(urllib.request.Request(url, body, headers), timeout=10):
        pass


def main(redis_url: str, chat_url: str) -> None:
    """Post each first revision; a message comes twice only if this is stopped right after it."""
    with read_blocking(EnrichedStream(redis_url, group="chat")) as records:
        for record in records:
            if record.data.revision == 1:
                post(chat_url, message := build_message(record))
                print(message["text"], flush=True)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2])
