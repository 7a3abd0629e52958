"""The five stages, a file each, all with the signature that pipeline.py runs."""
