"""Entry point of the command: ``intraq``, or ``python -m intraq_cli``."""

import signal


def main() -> int:
    """Run the command line and return the exit code. Ctrl-C during the imports just ends the process."""
    handled = signal.getsignal(signal.SIGINT) is signal.default_int_handler
    if handled:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
    from intraq_cli import app

    if handled:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    return app.main()


if __name__ == "__main__":
    raise SystemExit(main())
