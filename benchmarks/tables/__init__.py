"""The pages of the benchmarks under docs/benchmarks: tables, plots and words, from the results in JSON."""
