"""What the protocol cores and lts.conf must hold for any input: for hypothesis and a fuzzer.

A module a core: `check(data)` raises where the core breaks a promise, `SEEDS` are
inputs to begin with. `make fuzz` runs them under a coverage-guided fuzzer
(fuzz/run.py, docs/security.md); tests/fuzz runs seeds and what was once found.
"""
