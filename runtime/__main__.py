"""`python -m runtime` is `krt`."""

from runtime.cli.main import main

if __name__ == "__main__":
    main()
