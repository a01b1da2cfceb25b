"""`python -m synreal` is the command `synreal`."""

from synreal.cli import main

if __name__ == "__main__":
    main()
