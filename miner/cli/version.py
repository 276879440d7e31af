"""What `--version` tells: this program, and what it runs on."""

import platform

import click


def show_versions(context: click.Context, _parameter: click.Parameter, is_asked: bool) -> None:
    """Print the versions and end, if they are asked for."""
    if not is_asked or context.resilient_parsing:
        return
    from miner.runtime import installed_version

    click.echo(f"sn17-miner, version {installed_version()}")
    click.echo(f"Python {platform.python_version()}, {platform.platform(terse=True)}")
    click.echo(_describe_torch())
    context.exit()


version_option = click.option(
    "--version",
    is_flag=True,
    is_eager=True,
    expose_value=False,
    callback=show_versions,
    help="Show the versions of the program, Python, torch and CUDA, and exit.",
)


def _describe_torch() -> str:
    """Return the versions of torch and of its CUDA, and the GPUs that it sees."""
    try:
        import torch
    except (ImportError, OSError) as error:
        return f"torch cannot be imported: {' '.join(str(error).split())}"
    if torch.version.cuda is None:
        return f"torch {torch.__version__}, built without CUDA"
    names = [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())]
    return f"torch {torch.__version__}, CUDA {torch.version.cuda}, {', '.join(names) or 'no GPU that it can use'}"
