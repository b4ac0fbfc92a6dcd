"""nnunet_ssl: semi-supervised training for nnU-Net v2, as a plugin.

Importing the package is cheap on purpose: it is touched when Python starts (see ``nnunet_ssl._startup``).
"""

__version__ = "0.1.0"
