"""The operator's files as frozen, checked values: settings, phases, the validator policy."""
