"""The subnet: its messages, its metagraph, and calls to other neurons."""
