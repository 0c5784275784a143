#!/bin/sh
# Services on a Ray cluster: run the first part on the head, the second on every other machine, then the last on the head.
# All machines need the same paths for the bundle and the state; a partition's state must be there wherever it starts.
set -eu
case "${1:?head, worker ADDRESS, or serve BUNDLE STATE KEYS}" in
  head) exec ray start --head --port 6379 --dashboard-host 127.0.0.1 ;;
  worker) exec ray start --address "${2:?address of the head}" ;;
  serve)
    export RAY_ADDRESS=auto
    exec genrecall serve "${2:?bundle}" --ray --partitions "${PARTITIONS:-2}" --host 0.0.0.0 --port 8080 \
      --state "${3:?state}" --keys "${4:?keys}"
    ;;
  *) echo "head, worker ADDRESS, or serve BUNDLE STATE KEYS" >&2; exit 2 ;;
esac
