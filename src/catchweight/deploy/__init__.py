"""From a trained network to a served one: export, verification, benchmark, prediction.

Import the files themselves (``catchweight.deploy.segmenter``): serving must not load what training needs, so this
file imports nothing.
"""
