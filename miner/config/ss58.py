"""SS58, the text form of the chain's public keys: base58 of a network's prefix, the key and a checksum."""

import hashlib

ALPHABET = "123456789ABCDEFGHJKLMNPQRSTUVWXYZabcdefghijkmnopqrstuvwxyz"
KEY_BYTES = 32
CHECKSUM_BYTES = 2
MAX_LENGTH = 50
# The prefix of Bittensor, and of all Substrate chains without one of their own; such addresses begin with 5.
PREFIX = 42


def check_address(text: str) -> str:
    """Return the text if it is the SS58 address of a Bittensor key. Raise ValueError, saying what is wrong with it.

    https://docs.polkadot.com/polkadot-protocol/parachain-basics/accounts/ has the format. The SDK can check addresses,
    too, but takes seconds to import.
    """
    if len(text) > MAX_LENGTH:
        raise ValueError(f"{text[:MAX_LENGTH]}… is no SS58 address: it has the wrong length, copy it anew")
    data = _decode_base58(text)
    prefix_bytes = 1 if data[:1] < b"\x40" else 2
    if len(data) != prefix_bytes + KEY_BYTES + CHECKSUM_BYTES:
        raise ValueError(f"{text} is no SS58 address: it has the wrong length, copy it anew")
    body, checksum = data[:-CHECKSUM_BYTES], data[-CHECKSUM_BYTES:]
    if hashlib.blake2b(b"SS58PRE" + body).digest()[:CHECKSUM_BYTES] != checksum:
        raise ValueError(f"{text} is no SS58 address: its checksum is wrong, so a letter is; copy it anew")
    if data[0] != PREFIX:
        raise ValueError(f"{text} is an address of another network; those of Bittensor begin with 5")
    return text


def _decode_base58(text: str) -> bytes:
    number = 0
    for letter in text:
        digit = ALPHABET.find(letter)
        if digit < 0:
            raise ValueError(f"{text} is no SS58 address: {letter!r} does not occur in base58")
        number = number * len(ALPHABET) + digit
    leading = len(text) - len(text.lstrip(ALPHABET[0]))
    return bytes(leading) + number.to_bytes((number.bit_length() + 7) // 8)
