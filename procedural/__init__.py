"""Training and example scenes made by this project, and the clips and comparisons that are made of them.

It uses `cus` and is no part of it: it is not installed, and scripts of a checkout find it beside `cus/`.
"""
