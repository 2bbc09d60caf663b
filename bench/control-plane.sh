#!/usr/bin/env bash
# npod against beanstalkd -b -f0: 64 workers that take a task and report it done, as fast as they are
# answered, every change durable. Prints one JSON line as bench/run.sh has it.
#
#   bench/control-plane.sh [BUILD_DIR]       default build/release
#
# The two are measured in turn, three times each, on fresh state in the same temporary folder; the
# medians are compared. BENCH_TMP names where (a disk, not a tmpfs, or there is nothing to measure).
set -euo pipefail
cd "$(dirname "$0")/.."

build=${1:-build/release}
rounds=3
tmp=$(mktemp -d "${BENCH_TMP:-/var/tmp}/npo-bench.XXXXXX")
server=

stop() {
  [ -z "$server" ] || { kill "$server" && wait "$server"; } 2>/dev/null || true
  server=
}
trap 'stop; rm -rf "$tmp"' EXIT
trap 'exit 130' INT TERM

# Three neighbouring ports that nobody listens on.
free_port() {
  python3 - <<'PY'
import random, socket
while True:
    port = random.randrange(20000, 60000)
    sockets = [socket.socket() for _ in range(3)]
    try:
        for i, s in enumerate(sockets):
            s.bind(("127.0.0.1", port + i))
        print(port)
        break
    except OSError:
        pass
    finally:
        for s in sockets:
            s.close()
PY
}

listening() { # port
  for _ in $(seq 100); do
    if (exec 3<>"/dev/tcp/127.0.0.1/$1") 2>/dev/null; then return; fi
    kill -0 "$server" 2>/dev/null || break
    sleep 0.1
  done
  echo "control-plane.sh: the server did not start:" >&2
  cat "$tmp/log" >&2
  return 1
}

npod() {
  local port
  port=$(free_port)
  "$build/server/npod" --state "$tmp/npod" --listen "tcp://127.0.0.1:$port" >"$tmp/log" 2>&1 &
  server=$!
  listening "$port"
  "$build/bench/bench-control-plane" npod "tcp://127.0.0.1:$port" || { cat "$tmp/log" >&2; return 1; }
  stop
  rm -rf "$tmp/npod"
}

beanstalkd() {
  local port
  port=$(free_port)
  mkdir "$tmp/beanstalkd"
  command beanstalkd -l 127.0.0.1 -p "$port" -b "$tmp/beanstalkd" -f0 >"$tmp/log" 2>&1 &
  server=$!
  listening "$port"
  "$build/bench/bench-control-plane" beanstalkd "127.0.0.1:$port"
  stop
  rm -rf "$tmp/beanstalkd"
}

: >"$tmp/ours" >"$tmp/peer"
for _ in $(seq $rounds); do
  npod >>"$tmp/ours"
  beanstalkd >>"$tmp/peer"
done

python3 - "$tmp/ours" "$tmp/peer" <<'PY'
import json, statistics, sys
ours, peer = (statistics.median(map(float, open(path))) for path in sys.argv[1:])
print(json.dumps({"bench": "control-plane", "ours": round(ours, 1), "peer": round(peer, 1),
                  "peer_name": "beanstalkd -b -f0", "unit": "tasks/s", "ratio": round(ours / peer, 2),
                  "goal": 2.5}))
PY
