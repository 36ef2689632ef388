"""`python -m avtools` and `torchrun -m avtools`: the same program as the command."""

from avtools.cli import main

if __name__ == "__main__":
    main()
