#!/usr/bin/env bash
# A reader with nothing but redis-cli: read one record as the group `shell`, print it, acknowledge it.
#
#     ./read.sh -h 127.0.0.1 -p 6379        (the arguments go to redis-cli)
set -euo pipefail
stream='{deployments}:enriched'

redis-cli "$@" XGROUP CREATE "$stream" shell 0 MKSTREAM >/dev/null || true  # it may exist already
reply=$(redis-cli "$@" XREADGROUP GROUP shell "$(hostname)" COUNT 1 STREAMS "$stream" '>')
[ -n "$reply" ] || { echo "no new record"; exit 0; }

position=$(sed -n 2p <<<"$reply")             # after the name of the stream
sed -n '/^data$/{n;p;}' <<<"$reply"           # the value follows the name of its field
redis-cli "$@" XACK "$stream" shell "$position" >/dev/null
