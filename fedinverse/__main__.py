"""``fedinverse`` and ``python -m fedinverse``: the command line, once every room is known to be ours."""

import sys

from fedinverse.errors import NameTakenError
from fedinverse.house import check_rooms
from fedinverse.program import collect_rarely


def main() -> None:
    """Run the command line."""
    try:
        check_rooms()
    except NameTakenError as error:
        print(f"error {error}", file=sys.stderr)
        sys.exit(2)
    collect_rarely()
    from pipeline.cli.main import main as command_line

    command_line()


if __name__ == "__main__":
    main()
