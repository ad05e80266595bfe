"""`python -m ppo37` is the command `ppo37`."""

from .cli import main

if __name__ == "__main__":
    main()
