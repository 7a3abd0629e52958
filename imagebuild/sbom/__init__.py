"""The bill of materials of an image: gathered in its root, written as SPDX and as CycloneDX."""
