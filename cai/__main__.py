"""`python -m cai` is the program `cai`."""

from cai.cli import main

if __name__ == "__main__":
    main()
