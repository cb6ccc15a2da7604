#!/usr/bin/env bash
# Builds the program and the tests of its kernels and goldens for GPUs (CUDA and Vulkan or Metal) and puts them, with the
# data of the tests, into a folder that runs elsewhere: see gpu_check.sh.
#
#   scripts/gpu_bundle.sh [FOLDER]          default: .gpu
#
# Neither a CUDA toolkit nor LLVM is needed. Burn's CUDA runtime can compile kernels in two ways: in C++ through NVRTC, which
# is what the feature `cuda` selects here, or through LLVM. Both are always compiled in, and the second would want a bundle
# of LLVM libraries from the network to link against. DOCS_RS keeps its build script from fetching them, and the linker is
# told to leave their symbols open: nothing calls them. (On a machine whose Vulkan driver itself is built on LLVM, such as
# Mesa's software driver, use a build with `--features wgpu` alone.)
set -euo pipefail
cd "$(dirname "$0")/.."
folder=${1:-.gpu}
mkdir -p "$folder"

export DOCS_RS=1
export RUSTFLAGS="-C link-arg=-Wl,--unresolved-symbols=ignore-all"
export CARGO_TARGET_DIR=${CARGO_TARGET_DIR:-target/gpu}
messages=$(mktemp)
trap 'rm -f "$messages"' EXIT
cargo build --release -p tracknet-kernels -p tracknet -p tracknet-cli --bin tracknet --test gpu \
  --features cuda,wgpu --message-format=json-render-diagnostics > "$messages"

# Executables and the packages they belong to, from cargo's messages.
python3 - "$messages" "$folder" <<'PYTHON'
import json, os, shutil, subprocess, sys
for line in open(sys.argv[1]):
    message = json.loads(line)
    if message.get("reason") != "compiler-artifact" or not message.get("executable"):
        continue
    package = message["manifest_path"].split("/")[-2]
    name = "tracknet" if message["target"]["kind"] == ["bin"] else f"tests-{package}"
    target = os.path.join(sys.argv[2], name)
    shutil.copy(message["executable"], target)
    subprocess.run(["strip", target], check=True)
    print(f"{target}: {os.path.getsize(target) >> 20} MiB")
PYTHON
# The dynamic linker wants every symbol when a program starts: they lead to a trap, which nothing reaches.
nm -D --undefined-only "$folder/tracknet" |
  awk '$1 == "U" && $2 !~ /@/ { print "void " $2 "(void) { __builtin_trap(); }" }' |
  cc -x c -shared -fPIC -w -o "$folder/libno-llvm.so" -
rm -rf "$folder/fixtures"
mkdir -p "$folder/fixtures/tracknet" "$folder/fixtures/tracknet-kernels"
cp -r crates/tracknet/tests/fixtures/. "$folder/fixtures/tracknet/"
cp -r crates/tracknet-kernels/tests/fixtures/. "$folder/fixtures/tracknet-kernels/"
cp scripts/gpu_check.sh scripts/peer_gpu.py "$folder/"
pwd > "$folder/built-in"
