# The daily commands; `just` alone lists them. CONTRIBUTING.md says more.

set shell := ["bash", "-euo", "pipefail", "-c"]

[private]
default:
    @just --list --unsorted

# Does it compile, is it tidy: the program, its tests, the fuzz targets
check: fuzz-check
    cargo fmt --check
    cargo clippy --all-targets --locked -- -D warnings

# All that needs no real dump (no QEMU, no network)
test:
    scripts/test quick

# Make real dumps of two kernels, run everything
test-all *DIRS:
    scripts/test {{ DIRS }}

# The tests whose name contains FILTER, on the dumps that are there
only FILTER:
    cargo test --locked --lib --test main {{ FILTER }}

# shellcheck, ruff, documentation, licences
lint: shellcheck ruff doc deny

# Shell scripts, as scripts/test checks them
shellcheck:
    shellcheck -x -P SCRIPTDIR $(git grep -lE '^#!.*(bash|sh)$')

# Python: gdb's helpers, the lab, the tests (pip install ruff)
ruff:
    ruff check

# Documentation without dead links
doc:
    RUSTDOCFLAGS="-D warnings" cargo doc --no-deps --document-private-items --locked

# Licences, bans, sources and advisories of the crates (cargo install cargo-deny)
deny:
    cargo deny --locked check

# The oldest supported Rust, from Cargo.toml (rustup)
msrv:
    cargo +"$(sed -n 's/^rust-version = "\([0-9.]*\)".*/\1/p' Cargo.toml)" check --all-targets --locked

# Micro-benchmarks: the page path and the unwinder
bench *ARGS:
    cargo bench --locked --bench '*' -- {{ ARGS }}

# The fuzz targets still compile; libFuzzer itself is not needed for that
fuzz-check:
    CUSTOM_LIBFUZZER_PATH=/none/libfuzzer.a cargo check --locked --manifest-path tests/fuzz/Cargo.toml --target-dir target/fuzz

# Fuzz one target, guided by coverage; without a name, list them
fuzz *ARGS:
    scripts/fuzz {{ ARGS }}
