collect_ignore = ["fuzz_readers.py", "mutations.py", "seeds.py"]  # programs, not tests; `make fuzz` runs them
