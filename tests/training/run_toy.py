"""avtools with the toy system: `python run_toy.py train toy ...`."""

from avtools.models import registry

registry.SYSTEMS["toy"] = "toy:Toy"

if __name__ == "__main__":
    from avtools.cli import main

    main()
