#!/usr/bin/env bash
# Runs the benchmarks, one JSON line each:
#   {"bench", "ours", "peer", "peer_name", "unit", "ratio", "goal"}
# ratio > 1 where we are better, goal is the ratio asked for. Ours and the peer's are measured in the
# same run, one after the other, since machines are noisy; only the ratio is worth quoting.
#
#   bench/run.sh                 all of them
#   bench/run.sh train-step      by name: train-step, self-npo-step, unet-forward, unet-step,
#                                control-plane
#
# BENCH_PYTHON names a python with torch and diffusers; without it a virtual environment is made in
# build/bench-python from PyPI.
set -euo pipefail
cd "$(dirname "$0")/.."

model=models/fashion
threads=$(nproc)

build() {
  deploy/packages.sh build bench >&2
  [ -f build/release/build.ninja ] || meson setup build/release --buildtype release >&2
  ninja -C build/release >&2
}

torch_python() {
  if [ -n "${BENCH_PYTHON:-}" ]; then
    echo "$BENCH_PYTHON"
    return
  fi
  if [ ! -x build/bench-python/bin/python ]; then
    python3 -m venv build/bench-python >&2
    build/bench-python/bin/pip install -q torch diffusers >&2
  fi
  echo build/bench-python/bin/python
}

line() { # bench, ours, peer, peer name, unit, goal (seconds: lower is better)
  python3 -c 'import json, sys
bench, ours, peer, name, unit, goal = sys.argv[1:]
ours, peer = float(ours), float(peer)
print(json.dumps({"bench": bench, "ours": round(ours, 4), "peer": round(peer, 4), "peer_name": name,
                  "unit": unit, "ratio": round(peer / ours, 2), "goal": float(goal)}))' "$@"
}

# One compute benchmark: our step against PyTorch's, f32 and bf16 autocast, batch 64.
compute() { # name, goal
  local python ours
  python=$(torch_python)
  ours=$(build/release/bench/bench-train-step "$1" "$model" --batch 64 --threads "$threads")
  for precision in f32 bf16; do
    local flag=()
    [ $precision = f32 ] || flag=(--bf16)
    line "$1" "$ours" "$(LD_PRELOAD=$(ls /usr/lib/*/libjemalloc.so.2) "$python" bench/peer_torch.py \
      "$1" "$model" --batch 64 --threads "$threads" "${flag[@]}")" "pytorch $precision" "s/step" "$2"
  done
}

# Stable Diffusion 1.5's UNet at 512x512, random weights: one evaluation, or one with all gradients.
# PyTorch's is the better of eager and compiled.
unet() { # name, goal
  local python ours flag=()
  python=$(torch_python)
  [ "$1" = unet-forward ] || flag=(--backward)
  ours=$(build/release/bench/bench-unet --config bench/sd15-unet.json --threads "$threads" "${flag[@]}" |
    python3 -c 'import json, sys; r = json.load(sys.stdin); print(r.get("step_s", r["forward_s"]))')
  for precision in f32 bf16; do
    flag=()
    [ $precision = f32 ] || flag=(--bf16)
    line "$1" "$ours" "$(LD_PRELOAD=$(ls /usr/lib/*/libjemalloc.so.2) "$python" bench/peer_torch.py \
      "$1" bench/sd15-unet.json --batch 1 --threads "$threads" --repeat 3 "${flag[@]}")" \
      "pytorch $precision" s "$2"
  done
}

build
[ $# -gt 0 ] || set -- train-step self-npo-step unet-forward unet-step control-plane
for name; do
  case $name in
    train-step) compute train-step 1.5 ;;
    self-npo-step) compute self-npo-step 3 ;;
    unet-forward) unet unet-forward 1.7 ;;
    unet-step) unet unet-step 1.6 ;;
    control-plane) bench/control-plane.sh ;;
    *) echo "bench/run.sh: unknown benchmark '$name', expected train-step, self-npo-step, unet-forward," \
         "unet-step or control-plane" >&2
       exit 2 ;;
  esac
done
