"""The wallet whose hotkey mines; a hotkey that is protected by a password is decrypted once, at the start."""

import getpass
import os
import sys
import termios
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import partial

import bittensor as bt
from bittensor_wallet.keyfile import get_password_from_environment

from miner.config.run_settings import RunOptions
from miner.errors import OperatorError
from miner.runtime import run_in_daemon


async def load_wallet(options: RunOptions) -> bt.Wallet:
    """Return the wallet with its hotkey decrypted; a password that is nowhere else is asked for on the terminal.

    Raises OperatorError if the hotkey cannot be read, or if its password is not in the environment and there is no
    terminal to ask on.
    """
    wallet = bt.Wallet(options.wallet_name, options.wallet_hotkey, options.wallet_path)
    file = wallet.hotkey_file
    try:
        is_encrypted = file.exists_on_device() and file.is_encrypted()
    except Exception as error:  # the wallet library raises its own types
        raise OperatorError(f"the hotkey {file.path} cannot be read ({error}): check the file's permissions") from None
    if is_encrypted:
        await _unlock(wallet)
        return wallet
    try:
        _ = wallet.hotkey
    except Exception as error:
        raise OperatorError(
            f"the hotkey {options.wallet_path}/{options.wallet_name}/hotkeys/{options.wallet_hotkey} cannot be "
            f"read ({error}): check --wallet.name, --wallet.hotkey and --wallet.path, or make it with "
            f"`btcli wallet new-hotkey`"
        ) from None
    return wallet


async def _unlock(wallet: bt.Wallet) -> None:
    """Decrypt the hotkey and keep it in memory, since the library would otherwise decrypt it at every use.

    Takes about four seconds a password, by design of the encryption. Raises OperatorError.
    """
    variable = wallet.hotkey_file.env_var_name()
    passwords = _environment_passwords(variable)
    where = f"in the environment variable {variable}"
    if not passwords:
        if not sys.stdin or not sys.stdin.isatty():
            raise OperatorError(
                f"the hotkey {wallet.hotkey_file.path} is protected by a password, and there is no terminal to ask for "
                f"it: set the environment variable {variable} to the password"
            )
        with _restored_terminal():
            question = f"Password of the hotkey {wallet.hotkey_file.path}: "
            passwords, where = [await run_in_daemon(partial(getpass.getpass, question), "password")], "that was typed"
    for password in passwords:
        if await run_in_daemon(partial(_try_password, wallet, password), "wallet"):
            return
    raise OperatorError(f"the password {where} does not open the hotkey {wallet.hotkey_file.path}: correct it")


def _environment_passwords(variable: str) -> list[str]:
    """Return what the variable may mean: the password in the encoding of the wallet library, or just as it is."""
    value = os.environ.get(variable)
    if not value:
        return []
    with suppress(Exception):  # the library's own types: what is no Base64 is a plain password
        decoded = get_password_from_environment(variable)
        if decoded and decoded.isprintable():
            return [decoded, value]
    return [value]


def _try_password(wallet: bt.Wallet, password: str) -> bool:
    """Return whether the password opens the hotkey, which is decrypted from then on."""
    file = wallet.hotkey_file
    try:
        # The library takes no other password when it is to remember what it has decrypted.
        file.save_password_to_env(password)
        wallet.unlock_hotkey()
    except Exception:  # the library's own types, for a wrong password as for one that it cannot encode
        return False
    finally:
        # Processes that the miner starts must not inherit it. The library has set it past os.environ.
        os.environ.pop(file.env_var_name(), None)
        os.unsetenv(file.env_var_name())
    return True


@contextmanager
def _restored_terminal() -> Iterator[None]:
    """Let the terminal echo again at the end, also if a stop leaves the question unanswered."""
    attributes = termios.tcgetattr(sys.stdin)
    try:
        yield
    finally:
        termios.tcsetattr(sys.stdin, termios.TCSADRAIN, attributes)
