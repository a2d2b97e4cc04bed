"""`python -m hip_ext.cli`, the same as `hip-ext`."""

from hip_ext.cli.app import main

main()
