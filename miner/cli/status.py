"""sn17-miner status: the running miner on one screen."""

import json
import math
import time
from collections.abc import Iterable, Sequence
from contextlib import suppress
from pathlib import Path

import click

from miner.cli.help import HelpfulCommand
from miner.cli.options import dotted_option, load_files, operator_files
from miner.cli.task_lines import HEAD, Json, task_line
from miner.errors import ExitCode, MinerError, OperatorError
from miner.words import plural

# Seconds that the miner gets to answer; it does so at once even while it generates.
TIMEOUT = 5.0
SHOWN_TASKS = 8
GIB = 1024**3


@click.command(cls=HelpfulCommand, examples=("status", "status --watch", "status --strict --json"))
@click.option("--json", "as_json", is_flag=True, help="Print the monitor's JSON, with --watch an object a line.")
@click.option(
    "--watch",
    is_flag=False,
    flag_value=2.0,
    type=click.FloatRange(min=0.1),
    metavar="[SECONDS]",
    show_default="once",
    help="Show it again every two or so many seconds, until Ctrl-C.",
)
@click.option("--strict", is_flag=True, help="End with 1 if there are problems at present, too.")
@dotted_option(
    "--monitor.port",
    type=click.IntRange(1, 65535),
    show_default="monitor.port of the settings file",
    help="The port of the miner's monitor.",
)
@operator_files
@click.pass_context
def status(
    context: click.Context,
    as_json: bool,
    watch: float | None,
    strict: bool,
    monitor_port: int | None,
    config: Path | None,
    state: Path | None,
) -> None:
    """Show how the running miner is doing: phases, validators, the latest tasks, problems.

    Exit codes, with --watch that of the last look: 0 it works, 1 it is starting, stopping or cannot be reached, or has
    problems and --strict is given, 2 the monitor is switched off.
    """
    monitor = load_files(config, state).settings.monitor
    if not monitor.enabled and monitor_port is None:
        raise OperatorError(
            "the monitor is switched off in the settings file: set monitor.enabled, or name the --monitor.port that "
            "the miner was started with"
        )
    url = monitor_url(monitor.host, monitor_port or monitor.port)
    if watch is None:
        content = fetch(url)
        if as_json:
            click.echo(json.dumps(content, indent=1))
        lines, code = _judge(content, url, strict)
        if not as_json:
            click.echo("\n".join(lines))
        context.exit(code)
    code = ExitCode.CLEAN
    # Ctrl-C is how it ends.
    with suppress(KeyboardInterrupt):
        while True:
            code = _show_again(url, as_json, strict)
            time.sleep(watch)
    context.exit(code)


def _show_again(url: str, as_json: bool, strict: bool) -> ExitCode:
    """Show the status in place of what the terminal shows; a miner that does not answer may come back."""
    try:
        content = fetch(url)
        lines, code = _judge(content, url, strict)
    except MinerError as error:
        content = {"able_to_work": False, "problems": [str(error)]}
        code, lines = error.exit_code, [str(error)]
    text = json.dumps(content) if as_json else "\n".join(lines)
    if not as_json:
        # Does nothing unless the output is a terminal.
        click.clear()
    click.echo(text)
    return code


def _exit_code(content: Json, strict: bool) -> ExitCode:
    has_problems = strict and any(_problems(content))
    return ExitCode.CLEAN if content["able_to_work"] and not has_problems else ExitCode.FAILURE


def monitor_url(host: str, port: int) -> str:
    """Return the address at which this machine reaches a monitor that listens on `host`."""
    # A server that listens on all addresses is reached through the loopback address.
    host = {"0.0.0.0": "127.0.0.1", "::": "::1", "": "127.0.0.1"}.get(host, host)  # noqa: S104
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def fetch(url: str) -> Json:
    """Return the status that the monitor at `url` reports, and the latest tasks as its "tasks".

    Raises MinerError if no miner answers there.
    """
    from http.client import HTTPException
    from urllib.request import ProxyHandler, build_opener

    # The monitor is on this machine or in this network; a proxy for the internet cannot reach it.
    opener = build_opener(ProxyHandler({}))
    try:
        with opener.open(f"{url}/status.json", timeout=TIMEOUT) as response:
            content = json.load(response)
        with opener.open(f"{url}/tasks.json?last={SHOWN_TASKS}", timeout=TIMEOUT) as response:
            latest = json.load(response)
    except (OSError, HTTPException, ValueError) as error:
        reason = getattr(error, "reason", None) or error
        raise MinerError(
            f"no miner answers at {url} ({reason}): start it with `sn17-miner run`, or name its port with "
            "--monitor.port"
        ) from None
    if not isinstance(content, dict) or "able_to_work" not in content:
        raise MinerError(f"what answers at {url} is not a miner: name the miner's port with --monitor.port")
    return content | {"tasks": latest["tasks"]}


def _judge(content: Json, url: str, strict: bool) -> tuple[Sequence[str], ExitCode]:
    """Return the lines of the screen and the exit code. Raise MinerError if another version has told the content."""
    try:
        return list(screen(content, url)), _exit_code(content, strict)
    except (KeyError, TypeError):
        version = content.get("version", "unknown")
        raise MinerError(
            f"the miner at {url} is of another version than this program, {version}: restart it with this one "
            "(`pm2 restart miner`); --json shows what it tells"
        ) from None


def screen(content: Json, url: str) -> Iterable[str]:
    """Yield the lines of the screen."""
    now = content["now"]
    devices = {worker["device"] for worker in content["workers"]}
    state = {"ok": "working"}.get(content["status"], content["status"])
    yield f"{content['service']} {content['version']} at {url}: {state}"
    yield from _fields(
        [
            ("phase", _phase(content)),
            ("experiment", _experiment(content["experiment"])),
            ("uptime", f"{duration(content['uptime'])}; last success {_ago(content['last_success'], now)}"),
            ("queue", f"{plural(content['queue'], 'task')} waiting"),
            ("counters", ", ".join(f"{count} {name}" for name, count in content["counters"].items()) or "nothing yet"),
            *((worker["device"], _worker(worker)) for worker in content["workers"]),
            *((gpu["device"], _gpu(gpu)) for gpu in content["gpus"] if gpu["device"] not in devices),
            ("ledger", _ledger(content["ledger"])),
            ("metagraph", "not read yet" if (age := content["metagraph_age"]) is None else f"{duration(age)} old"),
        ]
    )
    yield from _validators(content["validators"], now)
    yield ""
    if content["tasks"]:
        yield f"  {HEAD}"
        yield from (f"  {task_line(task)}" for task in content["tasks"])
    else:
        yield "No task yet."
    problems = list(_problems(content))
    yield ""
    yield "Problems:" if problems else "No problems."
    yield from (f"  {problem}" for problem in problems)
    if past := list(_past(content)):
        yield "Since the start:"
        yield from (f"  {event}" for event in past)


def duration(seconds: float) -> str:
    """Format seconds with their two largest units."""
    whole = max(0, math.ceil(seconds))
    units = [(whole // 86_400, "d"), (whole // 3600 % 24, "h"), (whole // 60 % 60, "min"), (whole % 60, "s")]
    first = next((index for index, (count, _) in enumerate(units) if count), len(units) - 1)
    largest, *rest = units[first : first + 2]
    return " ".join(f"{count} {unit}" for count, unit in (largest, *(part for part in rest if part[0])))


def _fields(fields: Iterable[tuple[str, str]]) -> Iterable[str]:
    return (f"  {name:<11} {text}" for name, text in fields if text)


def _phase(content: Json) -> str:
    hashes = content["config_hashes"]
    if list(hashes) == [content["phase"]]:
        return f"{content['phase']} ({hashes[content['phase']]})"
    return ", ".join([content["phase"], *(f"{name} ({config_hash})" for name, config_hash in hashes.items())])


def _experiment(experiment: Json | None) -> str:
    if experiment is None:
        return ""
    arms = ", ".join(f"{arm['phase']} {arm['accepted']} of {arm['counted']}" for arm in experiment["arms"])
    result = "no arm is better yet"
    if experiment["winner"] is not None:
        result = f"{experiment['winner']} has won"
    elif experiment["losers"]:
        result = f"{', '.join(experiment['losers'])} clearly worse"
    return f"{experiment['experiment']}: {result}; accepted: {arms}"


def _worker(worker: Json) -> str:
    words = {
        "busy": f"busy for {duration(worker['busy_seconds'])}", "left_out": "left out", "unreachable": "out of reach",
    }  # fmt: skip
    state = words.get(worker["state"], worker["state"])
    made = f"{worker['per_minute']:.1f} candidates a minute, {worker['candidates']} in all"
    memory = f"; {_gpu(worker['memory'])}" if worker["memory"] else ""
    return f"{worker['place']}, {state}; {made}{memory}"


def _gpu(gpu: Json) -> str:
    allocated, reserved, total = (gpu[name] / GIB for name in ("allocated", "reserved", "total"))
    return f"{gpu['name']}: {allocated:.1f} GiB in use, {reserved:.1f} of {total:.1f} GiB reserved"


def _ledger(ledger: Json | None) -> str:
    if ledger is None:
        return ""
    return f"{plural(ledger['written'], 'record')} written, {ledger['waiting']} waiting, {ledger['dropped']} lost"


def _validators(views: Sequence[Json], now: float) -> Iterable[str]:
    yield ""
    if not views:
        yield "No validators to pull from."
        return
    yield f"{'uid':>5}  {'validator':<12}  {'state':<15} {'next pull':<10} {'cooldown':<10} {'failures':>8}"
    for view in views:
        next_pull, cooldown = (_remaining(view[name], now) for name in ("next_pull", "cooldown_end"))
        stage = view["stage"]
        yield (
            f"{view['uid']:>5}  {view['hotkey'][:8]:<12}  {stage:<15} {next_pull or 'now':<10} {cooldown or '-':<10} "
            f"{view['failures']:>8}"
        )


def _remaining(moment: float | None, now: float) -> str:
    return "" if moment is None or moment <= now else duration(moment - now)


def _ago(moment: float | None, now: float) -> str:
    return "not yet" if moment is None else f"{duration(now - moment)} ago"


def _problems(content: Json) -> Iterable[str]:
    if not content["pipeline_loaded"]:
        yield "the models are not loaded yet"
    yield from content["problems"]
    for worker in content["workers"]:
        name = f"the worker on {worker['device']}"
        if worker["problem"] and worker["state"] == "unreachable":
            yield f"{name} is out of reach: {worker['problem']}; it is tried again until it is there"
        elif worker["problem"]:
            ending = "" if worker["state"] == "lost" else "; it is started again"
            yield f"{name} was lost: {worker['problem']}{ending}"
        yield from (f"{name} is left out of {reason}" for reason in worker["left_out"])
    if content["ledger"] is not None and content["ledger"]["problem"]:
        yield f"ledger: {content['ledger']['problem']}"
    for view in content["validators"]:
        if view["failures"]:
            yield f"validator {view['hotkey'][:8]} (uid {view['uid']}): {plural(view['failures'], 'failure')} in a row"


def _past(content: Json) -> Iterable[str]:
    """Yield what went wrong since the start and is no problem any more."""
    for worker in content["workers"]:
        if worker["losses"] and not worker["problem"]:
            times = plural(worker["losses"], "time")
            yield f"the worker on {worker['device']} was lost {times}, the last time: {worker['last_loss']}"
    for name, count in content["restarts"].items():
        yield f"{name} was restarted {plural(count, 'time')}; the log says why"
    if content["ledger"] is not None and content["ledger"]["dropped"]:
        yield f"{plural(content['ledger']['dropped'], 'record')} of the ledger lost"
