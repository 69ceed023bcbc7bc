"""Sign a body with the Python library of Svix, under each set of header names, and post it.

Arguments: URL, secret. Standard input: the body. Prints each response.
"""

import datetime as dt
import json
import sys
import urllib.request

from svix.webhooks import Webhook

url, secret = sys.argv[1:]
body = sys.stdin.read()
for prefix in ("svix", "webhook"):
    message_id, now = f"py-{prefix}", dt.datetime.now(tz=dt.UTC)
    headers = {
        "content-type": "application/json",
        f"{prefix}-id": message_id,
        f"{prefix}-timestamp": str(int(now.timestamp())),
        f"{prefix}-signature": Webhook(secret).sign(message_id, now, body),
    }
    request = urllib.request.Request(url, body.encode(), headers)  # noqa: S310 - a URL of the test
    with urllib.request.urlopen(request, timeout=20) as response:  # noqa: S310 - the same URL
        print(json.dumps({"status": response.status, "body": json.load(response)}))
