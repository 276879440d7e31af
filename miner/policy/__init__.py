"""The policy: for which hotkeys this miner works."""
