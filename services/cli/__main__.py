"""The `elsa` command. Every deliberate error is one line on standard error, and a status that is not 0."""

import sys
from collections.abc import Sequence
from typing import Annotated

import typer

from elsa.errors import ElsaError
from services.cli import audit, clusters, data, demo, doctor, pki, plan, predict, roles, run
from services.rpc.introduction import own_version
from services.rpc.process import quiet_grpc

INTERRUPTED = 130
WRONG_USE = 2
FAILED = 1
USAGE_ERROR: type[Exception] = typer.BadParameter.mro()[2]  # the root of what typer raises at a wrong flag


def application() -> typer.Typer:
    """The command with all its subcommands."""
    app = typer.Typer(
        add_completion=False,
        pretty_exceptions_enable=False,
        context_settings={"help_option_names": ["-h", "--help"]},
        help="Fine-tune a language model over devices that can neither hold it nor share their data.\n\n"
        "To see it work on this machine: elsa demo",
    )
    app.callback(invoke_without_command=True)(_overview)
    for module in (demo, roles, run, plan, clusters, predict, data, pki, doctor, audit):
        module.add_to(app)
    return app


def _overview(
    context: typer.Context,
    version: Annotated[bool, typer.Option("--version", help="Show the version and exit.", is_eager=True)] = False,
) -> None:
    if version:
        typer.echo(f"elsa {own_version()}")
    elif context.invoked_subcommand is None:
        typer.echo(context.get_help())


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command and exit: 0 done, 1 an error, 2 a wrong flag, 130 interrupted."""
    quiet_grpc()
    sys.exit(status(sys.argv[1:] if arguments is None else arguments))


def status(arguments: Sequence[str]) -> int:
    """Run the command with these arguments; its exit status."""
    try:
        code = int(application()(args=list(arguments), prog_name="elsa", standalone_mode=False) or 0)
        return _say("interrupted", code) if code == INTERRUPTED else code  # typer catches the interrupt itself
    except ElsaError as error:
        return _say(str(error), FAILED)
    except USAGE_ERROR as error:
        said = error.format_message()  # type: ignore[attr-defined]
        return _say(f"{said} (--help after the command shows its flags)", WRONG_USE)
    except BrokenPipeError:
        return FAILED
    except OSError as error:
        return _say(f"{error.filename or 'the system'}: {error.strerror or error}", FAILED)
    except (KeyboardInterrupt, typer.Abort):
        return _say("interrupted", INTERRUPTED)


def _say(text: str, code: int) -> int:
    typer.secho(f"error: {' '.join(text.split())}", fg=typer.colors.RED, err=True)
    return code


if __name__ == "__main__":
    main()
