#!/bin/sh
# A worker with curl and jq, for short tasks that run a command:
#
#     ./worker.sh http://127.0.0.1:8001 shell
#
# It has one function, checksum(text). It sends no heartbeats: a task must end within its lease. Its results are short
# texts, which are never refused: a worker whose results may be must look at the answer of :complete, as worker.mjs does.

url="$1/v1/groups/$2"

ask() {
    curl --silent --show-error --fail --retry 5 --json @- "$url:$1" # the same request again finds the same
}

while true; do
    task=$(jq -n --arg worker "shell-$$" '{worker: $worker, functions: ["checksum"], wait: 30, lease_s: 30}' | ask poll) || {
        sleep 1
        continue
    }
    test -n "$task" || continue # there was none in time
    lease=$(printf %s "$task" | jq .lease)
    if sum=$(printf %s "$task" | jq -j '.args[0]' | sha256sum); then
        jq -n --argjson lease "$lease" --arg sum "${sum%% *}" '{lease: $lease, value: $sum}' | ask complete
    else
        jq -n --argjson lease "$lease" '{lease: $lease, error: {message: "sha256sum has failed"}}' | ask fail
    fi
done
