"""What `benchmarks/training.py` measures."""
