"""Side-by-side benchmarks of Mailarray and its peers on one machine: `python -m bench`."""
