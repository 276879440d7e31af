import os
import pty
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import bittensor as bt
import pytest
from bittensor_wallet.keyfile import get_password_from_environment

from miner.config.run_settings import RunOptions
from miner.errors import OperatorError
from miner.localnet.validator import make_wallet
from miner.subnet.wallet import load_wallet

PASSWORD = "Abc-1234-Pass!"


@pytest.fixture(scope="module")
def protected(tmp_path_factory: pytest.TempPathFactory) -> bt.Wallet:
    folder = tmp_path_factory.mktemp("protected")
    wallet = make_wallet(folder, "miner")
    wallet.hotkey_file.encrypt(PASSWORD)
    return wallet


@pytest.fixture
def options(protected: bt.Wallet) -> RunOptions:
    return RunOptions(wallet_name=protected.name, wallet_hotkey="default", wallet_path=protected.path)


@pytest.fixture
def variable(protected: bt.Wallet) -> Iterator[str]:
    """The name of the environment variable; unset before and after."""
    name = protected.hotkey_file.env_var_name()
    os.environ.pop(name, None)
    yield name
    os.environ.pop(name, None)


@pytest.fixture
def no_terminal(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    with Path(os.devnull).open() as nothing:
        monkeypatch.setattr(sys, "stdin", nothing)
        yield


@pytest.mark.usefixtures("no_terminal")
async def test_without_a_terminal_the_message_names_the_variable(options: RunOptions, variable: str) -> None:
    with pytest.raises(OperatorError, match="protected by a password") as caught:
        await load_wallet(options)
    assert variable in str(caught.value)
    assert "new-hotkey" not in str(caught.value)


@pytest.mark.usefixtures("no_terminal")
async def test_a_plain_password_in_the_environment(options: RunOptions, variable: str, protected: bt.Wallet) -> None:
    os.environ[variable] = PASSWORD
    wallet = await load_wallet(options)
    assert variable not in os.environ
    assert get_password_from_environment(variable) is None
    # Without its password, so it is not decrypted again.
    assert wallet.hotkey.ss58_address == protected.hotkey.ss58_address


@pytest.mark.usefixtures("no_terminal")
async def test_a_password_as_the_wallet_library_encodes_it(
    options: RunOptions, variable: str, protected: bt.Wallet
) -> None:
    os.environ[variable] = protected.hotkey_file.save_password_to_env(PASSWORD)
    assert (await load_wallet(options)).hotkey.ss58_address == protected.hotkey.ss58_address


@pytest.mark.usefixtures("no_terminal")
async def test_a_wrong_password_is_named_and_no_new_hotkey_suggested(options: RunOptions, variable: str) -> None:
    os.environ[variable] = "wrong-1234-Pass!"
    with pytest.raises(OperatorError, match=rf"{variable} does not open the hotkey") as caught:
        await load_wallet(options)
    assert "new-hotkey" not in str(caught.value)
    assert "wrong-1234" not in str(caught.value)


async def test_on_a_terminal_the_password_is_asked_for_off_the_event_loop(
    options: RunOptions, variable: str, protected: bt.Wallet, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[tuple[str, bool]] = []

    def type_password(question: str) -> str:
        asked.append((question, threading.current_thread() is threading.main_thread()))
        return PASSWORD

    controller, terminal = pty.openpty()
    with os.fdopen(controller), os.fdopen(terminal) as stdin:
        monkeypatch.setattr(sys, "stdin", stdin)
        monkeypatch.setattr("getpass.getpass", type_password)
        wallet = await load_wallet(options)
    assert wallet.hotkey.ss58_address == protected.hotkey.ss58_address
    ((question, on_main_thread),) = asked
    assert protected.hotkey_file.path in question
    assert not on_main_thread


async def test_a_missing_hotkey_can_be_made(tmp_path: Path) -> None:
    with pytest.raises(OperatorError, match=r"nobody/hotkeys/default.*new-hotkey"):
        await load_wallet(RunOptions(wallet_name="nobody", wallet_path=str(tmp_path)))
