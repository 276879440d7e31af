"""A subnet on this machine, with a validator that keeps the rules of subnet 17, for the demo and the tests."""
