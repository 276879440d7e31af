"""The comparisons that scripts/parity.py makes."""
