import bittensor as bt
import pytest

from miner.config.ss58 import check_address

ALICE = "5GrwvaEF5zXb26Fz9rcQpDWS57CtERHpNehXCPcNoHGKutQY"


@pytest.mark.parametrize("name", ["Alice", "a", "b", "validator"])
def test_addresses_of_keys(name: str) -> None:
    address = bt.Keypair.create_from_uri(f"//{name}").ss58_address
    assert check_address(address) == address


@pytest.mark.parametrize("position", range(0, 48, 5))
def test_a_letter_that_is_wrong_or_swapped(position: int) -> None:
    other = "2" if ALICE[position] != "2" else "3"
    with pytest.raises(ValueError, match=r"is no SS58 address|another network"):
        check_address(f"{ALICE[:position]}{other}{ALICE[position + 1 :]}")


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("", "wrong length"),
        ("5", "wrong length"),
        (ALICE[:-1], "wrong length|checksum"),
        (ALICE + "1", "wrong length"),
        ("1" * 1000, "wrong length"),
        ("z" * 100_000, "wrong length"),
        (ALICE.replace("r", "0", 1), "'0' does not occur in base58"),
        (f" {ALICE}", "' ' does not occur"),
        ("5Typö", "'ö' does not occur"),
        # Alice's on Polkadot and on a chain whose prefix has two bytes.
        ("15oF4uVJwmo4TdGW7VfQxNLavjCXviqxT9S1MgbjMNHr6Sp5", "another network"),
        ("VdvKmYJfD4VXA9fzz1SbmCo2eYHSzUFbaDCZSuaNKJAe8YNg6", "another network"),
    ],
)
def test_what_is_no_address_of_bittensor(text: str, problem: str) -> None:
    with pytest.raises(ValueError, match=problem):
        check_address(text)
