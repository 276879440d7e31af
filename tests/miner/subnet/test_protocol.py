import base64
import hashlib

import bittensor as bt

from miner.subnet.protocol import (
    LICENSE_DECLARATION,
    Generate,
    ImageTask,
    PullTask,
    SubmitResults,
    TextTask,
    sign_submission,
    submission_message,
)


def test_licence_declaration_is_the_subnets_byte_for_byte() -> None:
    declaration = LICENSE_DECLARATION.encode("ascii")
    assert len(declaration) == 199
    digest = "4ce1b0e563e233282c91114687a4e08765cfc2b4e00ad94a13607352cd09ecc9"
    assert hashlib.sha256(declaration).hexdigest() == digest


def test_signature_covers_declaration_time_prompt_and_both_hotkeys(wallets: dict[str, bt.Wallet]) -> None:
    keypair, validator = wallets["miner"].hotkey, wallets["validator"].hotkey.ss58_address
    submission = sign_submission(TextTask(id="a", prompt="a red chair"), "c3B6", 123, keypair, validator)
    text = f"{LICENSE_DECLARATION}123a red chair{validator}{keypair.ss58_address}"
    assert submission_message(123, "a red chair", validator, keypair.ss58_address) == text
    signature = base64.b64decode(submission.signature, validate=True)
    assert bt.Keypair(ss58_address=keypair.ss58_address).verify(text, signature)
    assert not bt.Keypair(ss58_address=keypair.ss58_address).verify(text.replace("chair", "cheir"), signature)
    assert (submission.task_id, submission.results, submission.compression) == ("a", "c3B6", 2)
    assert (submission.data_format, submission.data_ver, submission.task) == ("ply", 0, None)


def test_tasks_are_told_apart_by_their_type() -> None:
    wire = PullTask(task=ImageTask(id="i", prompt="aGk=")).model_dump()
    assert wire["task"] == {"id": "i", "type": "image", "prompt": "aGk="}
    assert isinstance(PullTask(**wire).task, ImageTask)
    assert isinstance(PullTask(task={"id": "t", "type": "text", "prompt": "p"}).task, TextTask)


def test_wire_names_and_defaults() -> None:
    pull, base = PullTask(), set(bt.Synapse.model_fields)
    assert {name: getattr(pull, name) for name in set(PullTask.model_fields) - base} == {
        "task": None,
        "validation_threshold": 0.6,
        "throttle_period": 0,
        "cooldown_until": 0,
        "cooldown_violations": 0,
    }
    assert set(SubmitResults.model_fields) - base == {
        *("task", "task_id", "results", "data_format", "data_ver", "compression", "submit_time", "signature"),
        *("feedback", "cooldown_until"),
    }
    required = {name for name, info in SubmitResults.model_fields.items() if info.is_required()}
    assert required == {"results", "submit_time", "signature"}


def test_generates_body_is_covered_by_its_hash() -> None:
    request = Generate(prompt="aGk=", seed=1)
    for change in ({"prompt": "aGo="}, {"seed": 2}, {"task_type": "text"}, {"data_format": "ply"}):
        assert request.model_copy(update=change).body_hash != request.body_hash
