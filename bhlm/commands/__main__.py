"""`python -m bhlm.commands`: the command line."""

from bhlm.commands.entry import run

if __name__ == "__main__":
    run()
