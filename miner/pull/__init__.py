"""The pulling transport: one session a validator, driven by a state machine without I/O."""
