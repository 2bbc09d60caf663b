#!/usr/bin/env bash
# Installs the Debian packages that npo needs, and nothing when they are all there.
#
#   deploy/packages.sh build         compile and run
#   deploy/packages.sh build test    and what the tests need
#   deploy/packages.sh bench         the peers that the benchmarks compare with
set -euo pipefail

declare -A packages=(
  [build]="gcc g++ meson ninja-build pkg-config python3 libuv1-dev libnanomsg-dev libsqlite3-dev
    libcjson-dev libdnnl-dev libgloo-dev libsystemd-dev libxxhash-dev libpng-dev zlib1g-dev
    dataset-fashion-mnist"
  [test]="libcmocka-dev sqlite3 procps"
  [bench]="beanstalkd libjemalloc2 python3-venv"
)

wanted=()
for group in "${@:-build}"; do
  if [ -z "${packages[$group]:-}" ]; then
    echo "packages.sh: unknown group '$group', expected one of: ${!packages[*]}" >&2
    exit 2
  fi
  read -r -d '' -a list <<<"${packages[$group]}" || true
  wanted+=("${list[@]}")
done

missing=()
for package in "${wanted[@]}"; do
  dpkg-query -W -f '${Status}' "$package" 2>/dev/null | grep -q '^install ok installed$' ||
    missing+=("$package")
done
[ ${#missing[@]} -eq 0 ] && exit 0

if [ "$(id -u)" -ne 0 ]; then
  echo "packages.sh: missing packages, run as root: apt-get install ${missing[*]}" >&2
  exit 1
fi
echo "installing: ${missing[*]}"
export DEBIAN_FRONTEND=noninteractive
apt-get update -q >/dev/null
apt-get install -q -y --no-install-recommends "${missing[@]}" >/dev/null
