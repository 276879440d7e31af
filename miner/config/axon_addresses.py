"""The addresses of the axon on the command line: the one that it listens on, and the one that validators are told."""

import ipaddress

from miner.errors import OperatorError

# Chains of the public internet. Behind any other address there may be a network of one's own.
PUBLIC_NETWORKS = frozenset({"finney", "test", "archive", "latent-lite"})
PUBLIC_HOST = ".opentensor.ai"


def check_listening(address: str) -> str:
    """Return an address that a server can listen on, without the brackets that the SDK writes around IPv6.

    Raises OperatorError.
    """
    parsed = _parse(address.removeprefix("[").removesuffix("]"))
    if parsed is None or parsed.is_multicast:
        raise OperatorError(
            f"--axon.ip must be an IP address of this machine, or 0.0.0.0 or :: for all of them, not {address!r}"
        )
    return str(parsed)


def check_announced(address: str, chain: str) -> None:
    """Raise OperatorError if validators that read the address from `chain` could not connect to it."""
    parsed = _parse(address)
    if parsed is None:
        raise OperatorError(
            f"--axon.external_ip must be an IP address, not {address!r}: give the one that the internet sees this "
            "machine at, without a port (--axon.external_port), or leave the option out to have it found out"
        )
    is_public = chain in PUBLIC_NETWORKS or PUBLIC_HOST in chain
    if parsed.is_unspecified or parsed.is_multicast or (is_public and not parsed.is_global):
        raise OperatorError(
            f"--axon.external_ip {address} is an address that validators cannot reach: give the one that the internet "
            "sees this machine at, or leave the option out to have it found out"
        )


def _parse(address: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    # A scope, as in fe80::1%eth0, means something on one machine alone.
    if "%" in address:
        return None
    try:
        return ipaddress.ip_address(address)
    except ValueError:
        return None
