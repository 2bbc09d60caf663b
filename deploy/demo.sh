#!/usr/bin/env bash
# From a clone to a report: installs packages, builds, starts npod and two workers, trains a negative
# network for the Fashion-MNIST model, evaluates it, and shows what it does. Ctrl-C stops everything;
# the next run goes on with the same job.
#
#   deploy/demo.sh              about 10 minutes on 2 cores
#   NPO_STATE=/var/tmp/npo deploy/demo.sh     another state folder (default build/demo)
set -euo pipefail
cd "$(dirname "$0")/.."
trap 'exit 130' INT TERM

deploy/packages.sh build

build=build/release
mkdir -p build
echo "building (log: $build.log)"
{
  [ -f $build/build.ninja ] || meson setup $build --buildtype release
  ninja -C $build server/npod worker/npoworker ctl/npoctl
} >$build.log 2>&1 || { tail -n 40 $build.log; exit 1; }

export NPO_STATE=${NPO_STATE:-$PWD/build/demo}
export PATH=$PWD/$build/ctl:$PATH
mkdir -p "$NPO_STATE"

trap 'npoctl down' EXIT
npoctl up --workers 2 -d

# The same key finds the same job: an interrupted demo goes on where it was.
key_file=$NPO_STATE/demo.key
[ -s "$key_file" ] || echo "demo-$(date +%s)-$$" >"$key_file"
job=$(npoctl submit models/fashion/self-npo.json --key "$(cat "$key_file")" --id-only)
code=0
npoctl watch "$job" || code=$?
case $code in 0 | 1 | 3) rm -f "$key_file" ;; esac # over: the next run makes a new job
[ $code = 0 ] || exit $code

out=$NPO_STATE/report-$job
npoctl get "$job" --out "$out"
npoctl evaluate --show "$out"
echo "report: $out/report.html"
