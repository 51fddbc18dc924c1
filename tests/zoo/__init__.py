"""The zoo: many small modules and losses of usual kinds. test_zoo.py and benchmarks/zoo.py use it."""
