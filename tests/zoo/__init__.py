"""The zoo: ordinary modules, losses and attacks, tiny. Used by test_zoo.py and benchmarks/zoo.py."""
