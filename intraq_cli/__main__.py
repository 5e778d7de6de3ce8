"""``python -m intraq_cli``."""

from intraq_cli.app import main

if __name__ == "__main__":
    raise SystemExit(main())
