"""sn17-miner serve: POST /generate and GET /health without chain and wallet."""

from pathlib import Path
from typing import TYPE_CHECKING, get_args

import click

from miner.cli.help import HelpfulCommand
from miner.cli.options import UpAxis, load_files, load_phase, operator_files, sdk_option
from miner.cli.run import run_to_the_end
from miner.errors import ExitCode

if TYPE_CHECKING:
    from miner.config import OperatorFiles


@click.command(cls=HelpfulCommand, examples=("serve", "serve --phase demo --port 10006"))
@click.option("--host", default="127.0.0.1", help="The address to listen on; POST /generate is for this machine only.")
@click.option("--port", type=click.IntRange(1, 65535), default=10006, help="The port to listen on.")
@click.option("--phase", "phase_name", show_default="phase of the settings file", help="The phase to generate with.")
@click.option(
    "--up",
    type=click.Choice(get_args(UpAxis)),
    show_default="monitor.generate.up of the settings file, -y as shipped",
    help="The axis of the object's upper side, for requests that name none.",
)
@sdk_option("--logging.debug", "debug", is_flag=True, help="Write more lines into the log.")
@operator_files
def serve(
    host: str,
    port: int,
    phase_name: str | None,
    up: UpAxis | None,
    debug: bool,
    config: Path | None,
    state: Path | None,
) -> None:
    """Answer POST /generate and GET /health, without chain and wallet.

    The form of POST /generate has prompt_image_file or prompt, and optionally seed and up; the answer is a PLY file:
    curl -F prompt="a yellow duck" http://127.0.0.1:10006/generate -o duck.ply
    """
    run_to_the_end(lambda: _serve(load_files(config, state), phase_name, up, host, port), debug)


async def _serve(files: "OperatorFiles", phase_name: str | None, up: UpAxis | None, host: str, port: int) -> ExitCode:
    """Load the models, then serve until a signal asks to stop. Raise MinerError if nothing more can be generated."""
    import asyncio
    import logging
    import signal
    import time
    from contextlib import AsyncExitStack

    from miner.app import first_or_stop, watch_workers
    from miner.gpu import WorkerPool, build_workers
    from miner.monitor import LocalApi, Monitor, Status
    from miner.phases import PhaseChoice, PhaseSelector
    from miner.runtime import installed_version
    from miner.tasks import PromptDecoder, TaskRunner

    log = logging.getLogger("miner.cli.serve")
    phase = load_phase(phase_name or files.settings.phase, files.config)
    stop, started_at = asyncio.Event(), time.monotonic()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    pool = WorkerPool(build_workers(files.settings))
    async with AsyncExitStack() as stack:
        stack.push_async_callback(pool.stop, 5.0)
        models = await first_or_stop(stop, pool.load(phase))
        if models is None:
            return ExitCode.CLEAN
        selector = PhaseSelector(PhaseChoice.single(phase), models)
        decoder = PromptDecoder()
        stack.callback(decoder.close)
        runner = TaskRunner(pool, selector, files.settings.spz, decoder=decoder)

        class Source:
            """The status of this server."""

            def status(self) -> Status:
                """Return the present status."""
                return Status(
                    status="stopping" if stop.is_set() else "ok",
                    pipeline_loaded=True,
                    phase=phase.name,
                    queue=pool.waiting,
                    last_success=runner.last_success,
                    uptime=time.monotonic() - started_at,
                    counters=runner.counters,
                    workers=pool.statuses,
                    config_hashes={phase.name: phase.config_hash},
                    unanswered={phase.name: phase.settings.unanswered},
                    version=installed_version(),
                )

        settings = files.settings.monitor.generate
        api = LocalApi(settings.model_copy(update={"up": up or settings.up}), runner)
        names = files.settings.monitor.allowed_hosts
        monitor = Monitor(Source(), host, port, api.routes(), other_port="--port", allowed_hosts=names)
        await monitor.start()
        stack.push_async_callback(monitor.stop)
        log.info("Serving %s at http://%s:%d/generate", phase.label, host, port)
        await first_or_stop(stop, watch_workers(pool))
    return ExitCode.CLEAN
