#!/usr/bin/env bash
# A sender with curl and openssl: sign an event as Standard Webhooks describes, and post it.
#
#     ENRICHER_WEBHOOK_SECRET=whsec_... ./send.sh http://127.0.0.1:8080/webhooks/native run-17 < event.json
set -euo pipefail
url=$1 delivery=$2
body=$(cat)
timestamp=$(date +%s)

key=$(base64 --decode <<<"${ENRICHER_WEBHOOK_SECRET#whsec_}" | od -An -v -tx1 | tr -d ' \n')
signature=$(printf '%s.%s.%s' "$delivery" "$timestamp" "$body" |
  openssl dgst -sha256 -mac HMAC -macopt "hexkey:$key" -binary | base64)

curl --fail-with-body --silent --show-error --retry 5 "$url" \
  -H "webhook-id: $delivery" \
  -H "webhook-timestamp: $timestamp" \
  -H "webhook-signature: v1,$signature" \
  -d "$body"
