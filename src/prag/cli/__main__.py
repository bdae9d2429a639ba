"""`python -m prag.cli`: the command, where it is not on the path."""

from prag.cli import main

if __name__ == "__main__":
    main()
