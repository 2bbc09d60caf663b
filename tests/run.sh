#!/usr/bin/env bash
# Installs what the tests need, builds, runs every test, and closes with one line:
# `N passed, N failed` (`, N skipped` where something is truly absent).
#
#   tests/run.sh            everything that CI runs
#   tests/run.sh --long     also the tests that take long (every crash point, ...)
#   tests/run.sh --quick    release build only, no sanitizers
set -euo pipefail
cd "$(dirname "$0")/.."

sanitizers=1
for argument; do
  case $argument in
    --long) export NPO_TEST_LONG=1 ;;
    --quick) sanitizers=0 ;;
    *) echo "tests/run.sh: unknown argument '$argument' (--long, --quick)" >&2; exit 2 ;;
  esac
done

deploy/packages.sh build test

configure() { # folder, meson options...
  local folder=$1
  shift
  if [ ! -f "$folder/build.ninja" ]; then
    meson setup "$folder" -Dtests=enabled "$@" >"$folder.log" 2>&1 || { cat "$folder.log"; return 1; }
  fi
  ninja -C "$folder" >"$folder.log" 2>&1 || { tail -n 60 "$folder.log"; return 1; }
}

# Runs meson's tests of one folder and adds its result file to the list that is counted at the end.
logs=()
run() { # folder, meson test options...
  local folder=$1
  shift
  meson test -C "$folder" --no-rebuild --print-errorlogs --logbase "run-${#logs[@]}" "$@" || true
  logs+=("$folder/meson-logs/run-${#logs[@]}.json")
}

export OMP_WAIT_POLICY=passive # spinning threads of two test processes would fight for two cores
mkdir -p build
configure build/release --buildtype release
run build/release --num-processes 2

if [ "$sanitizers" = 1 ]; then
  configure build/asan --buildtype debugoptimized -Db_sanitize=address,undefined -Db_lundef=false
  ASAN_OPTIONS=detect_leaks=1:allocator_may_return_null=1 \
    LSAN_OPTIONS=suppressions=$PWD/tests/lsan.supp:print_suppressions=0 \
    UBSAN_OPTIONS=halt_on_error=1:print_stacktrace=1 \
    run build/asan --num-processes 2 --suite unit --timeout-multiplier 4
  configure build/tsan --buildtype debugoptimized -Db_sanitize=thread -Db_lundef=false
  TSAN_OPTIONS=halt_on_error=1:suppressions=$PWD/tests/tsan.supp \
    run build/tsan --num-processes 2 --suite tsan --timeout-multiplier 4
fi

python3 - "${logs[@]}" <<'EOF'
import json, sys
count = {"passed": 0, "failed": 0, "skipped": 0}
for path in sys.argv[1:]:
    try:
        lines = open(path).read().splitlines()
    except OSError as error:
        print(f"no test results: {error}")
        count["failed"] += 1
        continue
    for line in lines:
        test = json.loads(line)
        kind = {"OK": "passed", "EXPECTEDFAIL": "passed", "SKIP": "skipped"}.get(test["result"], "failed")
        count[kind] += 1
        if kind == "failed":
            print(f"FAILED {path.split('/')[1]}: {test['name']} ({test['result']})")
tail = f", {count['skipped']} skipped" if count["skipped"] else ""
print(f"{count['passed']} passed, {count['failed']} failed{tail}")
sys.exit(1 if count["failed"] or not count["passed"] else 0)
EOF
