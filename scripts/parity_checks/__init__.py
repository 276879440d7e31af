"""The comparisons with golden data that `scripts.parity` makes."""
