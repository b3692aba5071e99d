"""The suites of scripts/benchmark, one module each. PARTS holds the parts of a suite by name."""
