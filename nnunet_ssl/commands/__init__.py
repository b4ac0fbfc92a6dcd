"""Subcommands of ``nnUNetv2_ssl``, one module each: ``HELP``, ``add_arguments``, ``run``."""
