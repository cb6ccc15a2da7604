#!/usr/bin/env bash
# Checks and measures the program on a machine with a GPU, from a folder that gpu_bundle.sh made. Builds nothing, fetches
# nothing; writes what it measures to $OUT (default: the folder itself) and prints tables.
#
#   gpu_check.sh parity        every own operation and the goldens of PyTorch, on the GPU against the processor
#   gpu_check.sh quickstart    the quick start on the GPU: seconds and F1
#   gpu_check.sh bench         training steps of ViT-S and ViT-B at batches of 16 and 64, ours and PyTorch's in turn
#   gpu_check.sh profile       seconds by kernel of one of them
#
# DEVICE names the device as --device does (default cuda). PyTorch's side needs what peer_gpu.py says; without it there are
# only our numbers.
set -uo pipefail
here=$(cd "$(dirname "$0")" && pwd)
out=${OUT:-$here}
device=${DEVICE:-cuda}
# The compiler of CUDA kernels and its headers, where Python packages or the toolkit have them.
for dir in /usr/local/cuda/lib64 $(python3 -c 'import nvidia, os, glob
for p in nvidia.__path__:
  for d in glob.glob(os.path.join(p, "*", "lib")): print(d)' 2>/dev/null); do
  [ -d "$dir" ] && LD_LIBRARY_PATH="${LD_LIBRARY_PATH:+$LD_LIBRARY_PATH:}$dir"
done
# Burn's compilation through LLVM is linked in and not used here; this stands in for its symbols (gpu_bundle.sh).
run() { LD_PRELOAD="$here/libno-llvm.so" "$@"; }
export LD_LIBRARY_PATH CUDA_PATH=${CUDA_PATH:-/usr/local/cuda}

# The tests look for their data where they were built.
link_fixtures() {
  local root; root=$(cat "$here/built-in")
  for package in tracknet tracknet-kernels; do
    mkdir -p "$root/crates/$package/tests"
    [ -e "$root/crates/$package/tests/fixtures" ] || ln -s "$here/fixtures/$package" "$root/crates/$package/tests/fixtures"
  done
}

# Each test in a process of its own, as many at once as there are cores: kernels are compiled one after the other in a
# process, and that is what takes the time. With a home of its own, none waits for the cache of another.
parity() {
  link_fixtures
  local package tests failed=0
  for package in tracknet-kernels tracknet; do
    tests=$(run "$here/tests-$package" --list --format terse | sed -n 's/: test$//p')
    echo "== $package on $device: $(wc -l <<< "$tests") tests"
    export TRACKNET_TEST_DEVICE=${device%%:*} TESTS="$here/tests-$package" STAND_IN="$here/libno-llvm.so"
    xargs -P "$(nproc)" -I {} bash -c '
      home=$(mktemp -d)
      if said=$(HOME=$home LD_PRELOAD=$STAND_IN timeout 300 "$TESTS" --exact "$1" 2>&1); then
        echo "$1 ... ok"
      else
        echo "$1 ... FAILED ($?)"; tail -20 <<< "$said" | sed "s/^/    /"; rm -rf "$home"; exit 1
      fi
      rm -rf "$home"' - {} <<< "$tests" | tee "$out/parity-$package.log" || failed=1
    echo "$(grep -c ' ... ok$' "$out/parity-$package.log") passed"
  done
  return $failed
}

quickstart() {
  local run; run=$(mktemp -d)
  (cd "$run" && time run "$here/tracknet" quickstart --device "$device") 2>&1 | tee "$out/quickstart.log" | tail -40
}

# Lines of JSON from both sides, in turn, for each workload.
bench() {
  : > "$out/bench.jsonl"
  nvidia-smi --query-gpu=name,driver_version,memory.total --format=csv,noheader 2>/dev/null
  for job in ${JOBS:-S:16 S:64 B:16 B:64}; do
    local size=${job%%:*} batch=${job##*:}
    run "$here/tracknet" bench "train/qlora/$size" --batch "$batch" --device "$device" --steps 15 --json "$out/ours.json" \
      training.precision=bf16 > "$out/bench-$size-$batch.log" 2>&1 || tail -3 "$out/bench-$size-$batch.log"
    python3 - "$out/ours.json" "$size" "$batch" >> "$out/bench.jsonl" <<'PYTHON'
import json, sys
for w in json.load(open(sys.argv[1]))["workloads"]:
    print(json.dumps(dict(side="ours", size=sys.argv[2], batch=int(sys.argv[3]), variant="qlora_bf16",
                          ms=w["time"]["median_ms"], min_ms=w["time"]["min_ms"], max_ms=w["time"]["max_ms"],
                          reserved_mib=(w.get("device_bytes") or 0) / 2**20)))
PYTHON
    rm -f "$out/ours.json"
    python3 "$here/peer_gpu.py" $(for v in ${VARIANTS:-qlora_bf16_autocast qlora_bf16}; do echo "$size:$batch:$v"; done) \
      >> "$out/bench.jsonl"
  done
  python3 - "$out/bench.jsonl" <<'PYTHON'
import json, sys
print("| workload | batch | side | ms a step (min-max) | allocated MiB | reserved MiB |")
print("|---|---|---|---|---|---|")
for line in open(sys.argv[1]):
    r = json.loads(line)
    if "error" in r:
        print(f"| {r['size']} | {r['batch']} | {r['side']} {r['variant']} | {r['error']} | | |")
        continue
    allocated = f"{r['allocated_mib']:.0f}" if "allocated_mib" in r else ""
    print(f"| {r['size']} | {r['batch']} | {r['side']} {r['variant']} | {r['ms']:.1f} ({r['min_ms']:.1f}-{r['max_ms']:.1f}) "
          f"| {allocated} | {r['reserved_mib']:.0f} |")
PYTHON
}

# The kernels of the last steps, by their share of the time. Measured one at a time, so the sum is more than a step takes.
profile() {
  local job=${JOBS:-B:64} dir; dir=$(mktemp -d)
  local size=${job%%:*} batch=${job##*:}
  printf '[profiling]\nlogger = { file = "%s/kernels.log", level = "basic" }\n' "$dir" > "$dir/cubecl.toml"
  (cd "$dir" && run "$here/tracknet" bench "train/qlora/$size" --batch "$batch" --device "$device" --steps 4 \
    training.precision=bf16) > "$out/profile-$size-$batch.log" 2>&1
  tail -2 "$out/profile-$size-$batch.log"
  python3 - "$dir/kernels.log" <<'PYTHON' | tee "$out/kernels-$size-$batch.txt"
import collections, re, sys
units = {"ns": 1e-6, "µs": 1e-3, "ms": 1.0, "s": 1e3}
rows = []
for line in open(sys.argv[1], errors="replace"):
    match = re.match(r"\|\s+([0-9.]+)(ns|µs|ms|s)\s+\|\s+(\S.*)", line.strip())
    if match and "⎺" not in line:
        rows.append((match[3][:110], float(match[1]) * units[match[2]]))
rows = rows[len(rows) // 2:]  # without the first steps
total, count = collections.Counter(), collections.Counter()
for name, ms in rows:
    total[name] += ms
    count[name] += 1
everything = sum(total.values())
print(f"{len(rows)} launches, {everything:.1f} ms")
for name, ms in total.most_common(45):
    print(f"{ms:9.2f} ms {100 * ms / everything:5.1f} %  {count[name]:6d}x {1e3 * ms / count[name]:8.1f} us  {name}")
PYTHON
}

for what in "$@"; do
  case $what in
    parity | quickstart | bench | profile) "$what" ;;
    *) echo "$what: not one of parity, quickstart, bench, profile" >&2; exit 2 ;;
  esac
done
