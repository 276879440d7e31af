"""Addresses of keys that exist only in tests."""

import bittensor as bt


def address(name: str) -> str:
    """Return the SS58 address of the key that is derived from a name."""
    return str(bt.Keypair.create_from_uri(f"//{name}").ss58_address)
