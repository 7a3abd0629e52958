"""The recipe: YAML read into frozen data, and packed for the stages."""
