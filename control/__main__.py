"""`headrace`, and `python -m headrace.control`."""
from .command import main

if __name__ == "__main__":
    main()
