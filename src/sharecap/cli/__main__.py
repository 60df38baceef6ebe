"""`python -m sharecap.cli`, for where no script was installed."""

from sharecap.cli import main

main()
