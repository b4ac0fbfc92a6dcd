"""Recipes that make nnU-Net datasets of public downloads: ``nnUNetv2_ssl convert NAME -i DOWNLOAD -o ID``.

One file for each public dataset. Its docstring says where the data come from, their licence, the layout of
the official download, the labels, what is done, and which split the papers use. ``nnUNetv2_ssl convert
--list`` shows them all, ``nnUNetv2_ssl convert NAME --about`` shows one docstring. The code that reads and
writes is ``nnunet_ssl.conversion``.
"""
