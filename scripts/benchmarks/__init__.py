"""The suites of scripts/benchmark, one module each; PARTS names what each measures."""
