"""Procedural training and example scenes, and the clips and comparisons made from them.

It uses `cus` but is not part of it: it is not installed, and scripts of a checkout find it next to `cus/`.
"""
