"""The network side: Bittensor, tasks and validators. Generation is in the package `pipeline`."""
