"""A task from its decoded prompt to the bytes of its result, the same for both transports."""
