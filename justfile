# Short names for the commands of the README and of CI.

# The first command of the README: fine-tune the shipped 4-bit backbone on rallies of another look.
quickstart *args:
    cargo run --release -- quickstart {{args}}

# Every test of the workspace, as CI runs them.
test:
    cargo test --workspace

# Runs that are broken on purpose: kill -9, signals, full disks, two processes at once. Long; `--short` as in CI.
trials *args:
    cargo build && python3 scripts/trials.py {{args}}

# What CI runs.
ci:
    bash .ci/run

# Every kernel beside what the processor can reach; `tracknet bench` measures whole steps.
bench *args:
    cargo bench --workspace --bench kernels -- {{args}}

fmt:
    cargo fmt --all

lint:
    cargo clippy --workspace --all-targets -- -D warnings

doc:
    RUSTDOCFLAGS="-D warnings -A rustdoc::private-intra-doc-links" cargo doc --workspace --no-deps

# Licences, sources and duplicate bans of the dependency tree (cargo install cargo-deny).
deny:
    cargo deny check licenses bans sources

# The GPU builds must compile; that needs no CUDA toolkit.
gpu-check:
    DOCS_RS=1 cargo clippy --workspace --all-targets --features cuda,wgpu -- -D warnings

# Parity of the kernels and goldens on a GPU, or on Mesa's software Vulkan.
gpu-test device="wgpu":
    TRACKNET_TEST_DEVICE={{device}} cargo test -p tracknet-kernels -p tracknet --features {{device}} --test gpu
