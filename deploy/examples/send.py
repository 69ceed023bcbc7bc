"""A sender with Python's standard library: sign an event as Standard Webhooks describes, post it.

ENRICHER_WEBHOOK_SECRET=whsec_... python send.py http://127.0.0.1:8080/webhooks/native < event.json
"""

import base64
import hmac
import os
import sys
import time
import urllib.request
import uuid


def sign(secret: str, delivery: str, timestamp: str, body: bytes) -> str:
    """Return the value of the header webhook-signature."""
    key = base64.b64decode(secret.removeprefix("whsec_"))
    digest = hmac.digest(key, f"{delivery}.{timestamp}.".encode() + body, "sha256")
    return f"v1,{base64.b64encode(digest).decode()}"


def main(url: str, body: bytes) -> None:
    """Post the event; use the same delivery id again when you repeat the request."""
    delivery, timestamp = str(uuid.uuid4()), str(int(time.time()))
    secret = os.environ["ENRICHER_WEBHOOK_SECRET"]
    headers = {
        "webhook-id": delivery,
        "webhook-timestamp": timestamp,
        "webhook-signature": sign(secret, delivery, timestamp, body),
    }
    with urllib.request.urlopen(urllib.request.Request(url, body, headers), timeout=10) as response:
        print(response.status, response.read().decode())


if __name__ == "__main__":
    main(sys.argv[1], sys.stdin.buffer.read())
