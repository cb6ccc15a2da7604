#!/usr/bin/env bash
# The tests of the GPU kernels on Mesa's Vulkan driver for processors (lavapipe): no graphics card is needed, a quarter of an hour
# is, most of it for the build. Debian and Ubuntu have the driver in mesa-vulkan-drivers.
#
#   scripts/test_lavapipe.sh [arguments for the test program]
#
# CubeCL 0.11.3 gives shared memory a pointer to a pointer as its type where a driver lacks
# VK_KHR_workgroup_memory_explicit_layout. Cards have that extension; lavapipe does not, and crashes on such a shader. So the
# tests are built with a copy of cubecl-spirv in which the two types are the right way round. The lock file stays as it is.
set -euo pipefail
cd "$(dirname "$0")/.."
target=${CARGO_TARGET_DIR:-target}
copy=$(mkdir -p "$target/lavapipe" && cd "$target/lavapipe" && pwd)/cubecl-spirv

source=$(cargo metadata --format-version 1 --locked --features tracknet-kernels/wgpu |
  python3 -c 'import json, os, sys
for p in json.load(sys.stdin)["packages"]:
  if p["name"] == "cubecl-spirv": print(os.path.dirname(p["manifest_path"]))')
rm -rf "$copy"
cp -r "$source" "$copy"
python3 - "$copy/src/ops/memory.rs" <<'PYTHON'
import re, sys
text = open(sys.argv[1]).read()
start = text.index("fn lower_shared_implicit")
end = text.index("fn lower_shared_explicit")
part = text[start:end]
swapped = re.sub(r"let (ty|value_ty) = ty_to_spirv_dialect", lambda m: f"let {'value_ty' if m[1] == 'ty' else 'ty'} = ty_to_spirv_dialect", part)
if swapped.count("ty_to_spirv_dialect(ctx") != 2 or swapped == part:
    sys.exit("cubecl-spirv has changed: perhaps it needs no mending any more")
open(sys.argv[1], "w").write(text[:start] + swapped + text[end:])
PYTHON

lock=$(mktemp)
cp Cargo.lock "$lock"
trap 'cp "$lock" Cargo.lock; rm -f "$lock"' EXIT
export TRACKNET_TEST_DEVICE=wgpu XDG_RUNTIME_DIR=${XDG_RUNTIME_DIR:-/tmp}
cargo test -p tracknet-kernels --features wgpu --test gpu --config "patch.crates-io.cubecl-spirv.path=\"$copy\"" -- \
  --test-threads 2 "$@"
